//! Compiles `proto/` with protox, so that a build needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// The wire contract: what devices and businesses call.
const CONTRACT: [&str; 6] = [
    "conn.ext.proto",
    "logic.ext.proto",
    "logic.int.proto",
    "push.ext.proto",
    "user.ext.proto",
    "user.int.proto",
];

/// What instances tell each other; no client sees it.
const BRIDGE: &str = "bridge.proto";

/// What reflection shows on the public gRPC listener.
const EXTERNAL: [&str; 4] = [
    "conn.ext.proto",
    "logic.ext.proto",
    "push.ext.proto",
    "user.ext.proto",
];

/// What reflection shows on the internal listener.
const INTERNAL: [&str; 2] = ["logic.int.proto", "user.int.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (name, files) in [
        ("external_descriptor.bin", &EXTERNAL[..]),
        ("internal_descriptor.bin", &INTERNAL[..]),
    ] {
        let set = protox::compile(files, ["proto"])?;
        fs::write(out.join(name), set.encode_to_vec())?;
    }
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]);
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        // An rpc that no code answers yet is UNIMPLEMENTED.
        .generate_default_stubs(true)
        .compile_fds_with_config(
            protox::compile(CONTRACT.iter().chain([&BRIDGE]), ["proto"])?,
            config,
        )?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
