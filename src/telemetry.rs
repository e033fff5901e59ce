//! placeholder
#[derive(Debug, Default)]
pub struct Metrics;
impl Metrics {
    pub fn gap_filled(&self) {}
}
