//! What the operating system knows of this process, read from `/proc` when it is asked for. On a
//! system without `/proc` these metrics are left out.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Reads the process's own figures at every scrape.
#[derive(Debug)]
pub(super) struct Process;

/// The figures, under the names that are customary for them.
struct Figures {
    resident_bytes: u64,
    cpu_s: f64,
    open_fds: u64,
    start_s: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(figures) = Figures::read() else {
            return Ok(());
        };
        let mut put = |name, help, metric: &dyn Encode| metric.put(&mut encoder, name, help);
        put(
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM",
            &ConstGauge::new(figures.resident_bytes as i64),
        )?;
        put(
            "process_cpu_seconds",
            "Time the process spent on processors, user and system",
            &ConstCounter::new(figures.cpu_s),
        )?;
        put(
            "process_open_fds",
            "File descriptors that are open",
            &ConstGauge::new(figures.open_fds as i64),
        )?;
        put(
            "process_start_time_seconds",
            "When the process was started, in unix seconds",
            &ConstGauge::new(figures.start_s),
        )
    }
}

/// Metrics of different types behind one call.
trait Encode {
    fn put(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn put(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

impl Figures {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field, the command in parentheses, may contain blanks: count from its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
            cpu_s: (field(14)? + field(15)?) as f64 / ticks,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            start_s: boot_time_s()? as f64 + field(22)? as f64 / ticks,
        })
    }
}

fn boot_time_s() -> Option<u64> {
    fs::read_to_string("/proc/stat")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}
