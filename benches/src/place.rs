//! Where the workspace lies, and the programs that cargo has built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the workspace")
}

/// The folder that this program was built into: `target/debug` or `target/release`.
pub fn build_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    Ok(program.parent().context("this program has no folder")?.to_path_buf())
}

/// A program built beside this one.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let path = build_folder()?.join(name);
    if !path.exists() {
        bail!("{} is not there: build the workspace first (`cargo build --workspace`)", path.display());
    }
    Ok(path)
}

/// Has cargo build the whole workspace, in the profile that this program was built in.
pub fn build_workspace() -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--workspace", "--bins", "--quiet"]).current_dir(workspace());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cargo cannot be run")?;
    anyhow::ensure!(status.success(), "the workspace does not build");
    Ok(())
}
