//! Processes that a command starts: this very program again, its logs in files.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::exit::{Exit, Outcome};

/// This very program.
pub fn this_program() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(|error| Exit::failed(format!("this program can't find itself: {error}")))
}

/// A file that a child writes its log to; what is in it stays.
#[expect(clippy::disallowed_methods, reason = "commands keep their children's logs beside their data")]
pub fn log_file(path: &Path) -> Outcome<Stdio> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.map(Stdio::from).map_err(|error| Exit::failed(format!("the log {} can't be opened: {error}", path.display())))
}

/// Sends SIGTERM; whether there was a process to send it to.
pub fn terminate(child: &tokio::process::Child) -> bool {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok())
}
