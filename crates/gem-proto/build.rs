//! Compiles the wire contract; no protoc is needed.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message as _;

/// The answers that carry stored messages: servers write them straight from where the messages lie.
const ANSWERS: [&str; 3] = ["SubscribeResponse", "ReadResponse", "PullResponse"];

#[expect(clippy::disallowed_methods, reason = "a build script writes what it generates")]
fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["message", "publisher", "subscriber", "mesh", "admin"].map(|f| root.join(format!("gem/v1/{f}.proto")));
    let set = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("gem.v1.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").build_server(false).compile_fds(set.clone())?;
    let servers = out.join("server");
    std::fs::create_dir_all(&servers)?;
    let mut builder = tonic_prost_build::configure()
        .out_dir(servers)
        .build_client(false)
        .codec_path("crate::answer::Codec")
        .extern_path(".gem.v1", "crate::v1");
    for answer in ANSWERS {
        builder = builder.extern_path(format!(".gem.v1.{answer}"), "crate::answer::Answer");
    }
    builder.compile_fds(set)?;
    Ok(())
}
