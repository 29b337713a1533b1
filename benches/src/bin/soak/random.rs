//! Random choices of a run: splitmix64, begun anywhere.

/// A source of numbers.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at a number that the system gives.
    pub fn new() -> anyhow::Result<Random> {
        Ok(Random(getrandom::u64().map_err(|error| anyhow::anyhow!("the system gives no random numbers: {error}"))?))
    }

    /// A number below `limit`, which is not 0. Small limits, so the bias is nothing.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
