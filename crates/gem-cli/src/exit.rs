//! How a command ends.

use std::io::Write as _;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Exit {
    /// Exit code 1: one line says what failed, where, and what to do.
    Failed(String),
    /// Exit code 2: the command was called wrongly.
    Usage(String),
    /// The reader of standard output has gone: nothing to say, and no failure.
    ReaderGone,
}

/// What a command ends with.
pub type Outcome<T = ()> = Result<T, Exit>;

impl Exit {
    /// Exit code 1.
    pub fn failed(line: impl Into<String>) -> Exit {
        Exit::Failed(line.into())
    }

    /// Exit code 2.
    pub fn usage(line: impl Into<String>) -> Exit {
        Exit::Usage(line.into())
    }

    /// Prints the line and gives the code.
    pub fn report(self) -> ExitCode {
        let (code, line) = match self {
            Exit::Failed(line) => (1, line),
            Exit::Usage(line) => (2, line),
            Exit::ReaderGone => return ExitCode::SUCCESS,
        };
        // Where standard error is gone too, the code alone has to do.
        let _ = writeln!(std::io::stderr(), "gem: {}", line.replace('\n', " "));
        ExitCode::from(code)
    }
}

impl From<gem_client::Error> for Exit {
    fn from(error: gem_client::Error) -> Exit {
        Exit::Failed(format!("{} [{}]", error.detail, error.code))
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Exit {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Exit::ReaderGone;
        }
        Exit::Failed(format!("reading or writing failed: {error}"))
    }
}
