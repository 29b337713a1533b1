//! Soak runs: the real programs under load and under kills, held to their promises.

#![deny(unsafe_code)]

fn main() -> anyhow::Result<()> {
    anyhow::bail!("there is no soak yet")
}
