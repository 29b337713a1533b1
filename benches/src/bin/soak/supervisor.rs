use clap::Args;
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 50)]
    kills: u64,
}
pub fn run(_options: &Options, _keep: bool) -> anyhow::Result<Vec<String>> {
    anyhow::bail!("not yet")
}
