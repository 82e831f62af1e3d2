//! Compiles the wire contract; no protoc is needed.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message as _;

#[expect(clippy::disallowed_methods, reason = "a build script writes what it generates")]
fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["message", "publisher", "subscriber", "admin"].map(|f| root.join(format!("gem/v1/{f}.proto")));
    let set = protox::compile(&files, [&root])?;
    std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("gem.v1.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}
