//! What the server uses: CPU time and resident memory, from `/proc` or from its metrics.

use std::{fs, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Longest answer of the metrics endpoint that is read, in bytes.
const METRICS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Ticks a second in `/proc/*/stat`, the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// User and system time in seconds, since it started.
    pub cpu_s: f64,
    /// Resident memory in bytes.
    pub resident_bytes: f64,
}

impl Usage {
    /// CPU time since `before` for each of `operations`, in microseconds; `None` for no operation.
    pub fn cpu_each_us(self, before: Self, operations: u64) -> Option<f64> {
        (operations > 0).then(|| (self.cpu_s - before.cpu_s) * 1e6 / operations as f64)
    }
}

/// Where the server's usage is read.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// A process on this machine.
    Process(u32),
    /// The metrics endpoint.
    Metrics(SocketAddr),
}

impl Probe {
    /// Reads the usage now; `None` when it cannot be had.
    pub async fn read(self) -> Option<Usage> {
        match self {
            Self::Process(pid) => process(&pid.to_string()),
            Self::Metrics(address) => {
                let text = timeout(READ_DEADLINE, scrape(address)).await.ok()??;
                from_metrics(&text)
            }
        }
    }
}

/// What this tool itself has used.
pub fn own_usage() -> Option<Usage> {
    process("self")
}

fn process(pid: &str) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    from_proc(&stat, &status)
}

fn from_proc(stat: &str, status: &str) -> Option<Usage> {
    // The second field is a name in brackets that may hold anything; utime and stime are the 14th
    // and 15th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    let cpu_s = (ticks()? + ticks()?) / TICKS_PER_S;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(Usage {
        cpu_s,
        resident_bytes: kib * 1024.0,
    })
}

async fn scrape(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    // HTTP/1.0: the answer ends with the connection and is not chunked.
    let request = format!("GET /metrics HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    let mut answer = stream.take(METRICS_BYTES_MAX);
    answer.read_to_string(&mut text).await.ok()?;
    Some(text)
}

fn from_metrics(text: &str) -> Option<Usage> {
    let value = |wanted: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let name = name.split('{').next()?;
            let name = name.strip_prefix("im_").unwrap_or(name);
            (name == wanted).then(|| value.parse::<f64>().ok())?
        })
    };
    Some(Usage {
        cpu_s: value("process_cpu_seconds_total")?,
        resident_bytes: value("process_resident_memory_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_with_and_without_prefix_and_labels() {
        let usage = Some(Usage {
            cpu_s: 1.5,
            resident_bytes: 2e6,
        });
        let text = "HTTP/1.0 200 OK\r\n\r\n# TYPE x counter\nprocess_cpu_seconds_total 1.5\n\
                    process_resident_memory_bytes 2000000\n";
        assert_eq!(from_metrics(text), usage);
        assert_eq!(
            from_metrics(&text.replace("process_", "im_process_")),
            usage
        );
        assert_eq!(
            from_metrics(&text.replace("bytes ", "bytes{a=\"b c\"} ")),
            usage
        );
        assert_eq!(from_metrics("process_cpu_seconds_total 1.5"), None);
    }

    #[test]
    fn a_process_name_may_hold_brackets_and_spaces() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let usage = from_proc(stat, "Name:\tx\nVmRSS:\t  2048 kB\n").unwrap();
        assert_eq!((usage.cpu_s, usage.resident_bytes), (3.0, 2048.0 * 1024.0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_own_process_can_be_read() {
        assert!(own_usage().is_some_and(|usage| usage.resident_bytes > 0.0));
    }
}
