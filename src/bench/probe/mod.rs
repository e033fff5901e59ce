//! What the servers use: CPU time and resident memory, from `/proc` or from their metrics; and the
//! CPU time of further processes that are named, a database or Redis, with all their children.

mod process;

use std::{collections::HashMap, net::SocketAddr, str::FromStr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use self::process::Processes;
pub use self::process::own_usage;

const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Longest answer of the metrics endpoint that is read, in bytes.
const METRICS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What all servers together are called in a report.
pub const SERVERS: &str = "server";
/// Names in a report that begin with these are taken.
const TAKEN: [&str; 2] = [SERVERS, "tool"];

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time in seconds, since it started.
    pub cpu_s: f64,
    /// Resident memory in bytes.
    pub resident_bytes: f64,
}

/// `cpu_s` for each of `operations`, in microseconds; `None` for no operation.
pub fn cpu_each_us(cpu_s: f64, operations: u64) -> Option<f64> {
    (operations > 0).then(|| cpu_s * 1e6 / operations as f64)
}

/// Where a server's usage is read.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// A process on this machine.
    Process(u32),
    /// The metrics endpoint.
    Metrics(SocketAddr),
}

impl Source {
    async fn read(self) -> Option<Usage> {
        match self {
            Self::Process(pid) => process::usage(pid),
            Self::Metrics(address) => {
                let text = timeout(READ_DEADLINE, scrape(address)).await.ok()??;
                from_metrics(&text)
            }
        }
    }
}

/// A process on this machine that is not a server, with its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    name: String,
    pid: u32,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "expected NAME=PID, the name of a-z, 0-9 and _";
        let (name, pid) = text.split_once('=').ok_or(WANTED)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(WANTED.to_owned());
        }
        if TAKEN.iter().any(|taken| name.starts_with(taken)) {
            return Err(format!(
                "the name must not begin with {}",
                TAKEN.join(" or ")
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            pid: pid.parse().map_err(|_| WANTED)?,
        })
    }
}

/// Everything whose usage is read.
#[derive(Clone, Debug)]
pub struct Probe {
    servers: Vec<Source>,
    others: Vec<Named>,
}

impl Probe {
    /// Reads `servers`, one for each instance, and `others`.
    pub fn new(servers: Vec<Source>, others: Vec<Named>) -> Self {
        Self { servers, others }
    }

    /// Reads everything now.
    pub async fn read(&self) -> Reading {
        let mut servers = Vec::with_capacity(self.servers.len());
        for server in &self.servers {
            servers.push(server.read().await);
        }
        let processes = match self.others.is_empty() {
            true => Processes::default(),
            false => Processes::read(),
        };
        let other = |named: &Named| (named.name.clone(), processes.family_cpu_s(named.pid));
        let others = self.others.iter().map(other).collect();
        Reading { servers, others }
    }

    /// What `reading` lacks, in words.
    pub fn unreadable(&self, reading: &Reading) -> Vec<String> {
        let servers = self.servers.iter().zip(&reading.servers);
        let servers = servers.filter(|(_, usage)| usage.is_none());
        let others = self.others.iter().zip(&reading.others);
        let others = others.filter(|(_, (_, cpu_s))| cpu_s.is_none());
        servers
            .map(|(source, _)| format!("{source:?}"))
            .chain(others.map(|(named, _)| format!("{}={}", named.name, named.pid)))
            .collect()
    }
}

/// What a probe read at one moment; `None` where it could not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The servers, in the order of their addresses.
    pub servers: Vec<Option<Usage>>,
    /// The other processes by name, with their CPU time in seconds.
    pub others: Vec<(String, Option<f64>)>,
}

impl Reading {
    /// All servers together; `None` where one is missing.
    pub fn sum(&self) -> Option<Usage> {
        let add = |sum: Usage, usage: Usage| Usage {
            cpu_s: sum.cpu_s + usage.cpu_s,
            resident_bytes: sum.resident_bytes + usage.resident_bytes,
        };
        let mut servers = self.servers.iter().copied();
        servers.try_fold(Usage::default(), |sum, usage| Some(add(sum, usage?)))
    }

    /// All servers together and, where there are several, each, by the names of a report.
    pub fn servers(&self) -> Vec<(String, Usage)> {
        let all = self.sum().map(|sum| (SERVERS.to_owned(), sum));
        let each = self.servers.iter().enumerate();
        let each = each.filter_map(|(index, usage)| {
            usage.map(|usage| (format!("{SERVERS}_{}", index + 1), usage))
        });
        let several = self.servers.len() > 1;
        all.into_iter().chain(each.filter(|_| several)).collect()
    }

    /// The CPU time used since `before`, the same probe's.
    pub fn spent_since(&self, before: &Self) -> Spent {
        let cpu_s = |reading: &Self| {
            let servers = reading.servers().into_iter();
            let others = reading.others.iter().cloned();
            servers
                .map(|(name, usage)| (name, usage.cpu_s))
                .chain(others.filter_map(|(name, cpu_s)| Some((name, cpu_s?))))
                .collect::<Vec<_>>()
        };
        let before: HashMap<String, f64> = cpu_s(before).into_iter().collect();
        let spent = cpu_s(self).into_iter();
        Spent(
            spent
                .filter_map(|(name, cpu_s)| before.get(&name).map(|before| (name, cpu_s - before)))
                .collect(),
        )
    }
}

/// CPU time in seconds by the names of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spent(Vec<(String, f64)>);

impl Spent {
    /// Adds what was used at another time.
    pub fn add(&mut self, other: Self) {
        for (name, cpu_s) in other.0 {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += cpu_s,
                None => self.0.push((name, cpu_s)),
            }
        }
    }

    /// What all servers together used.
    pub fn servers_s(&self) -> Option<f64> {
        let servers = self.0.iter().find(|(name, _)| name == SERVERS);
        servers.map(|(_, cpu_s)| *cpu_s)
    }

    /// `(name, seconds)`: all servers together, each of several, the others.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, cpu_s)| (name.as_str(), *cpu_s))
    }
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
    fn names_of_processes_do_not_collide_with_the_reports_own() {
        assert_eq!(
            "redis_2=42".parse(),
            Ok(Named {
                name: "redis_2".to_owned(),
                pid: 42
            })
        );
        for text in [
            "redis",
            "=5",
            "redis=x",
            "Redis=5",
            "a b=5",
            "server=5",
            "server_1=5",
            "tool=5",
        ] {
            assert!(text.parse::<Named>().is_err(), "{text}");
        }
    }

    fn reading(servers: &[f64], redis_cpu_s: f64) -> Reading {
        let usage = |cpu_s: &f64| {
            Some(Usage {
                cpu_s: *cpu_s,
                resident_bytes: 10.0,
            })
        };
        Reading {
            servers: servers.iter().map(usage).collect(),
            others: vec![("redis".to_owned(), Some(redis_cpu_s))],
        }
    }

    #[test]
    fn instances_are_told_each_and_in_sum() {
        let spent = reading(&[4.0, 7.0], 1.5).spent_since(&reading(&[3.0, 5.0], 1.0));
        let wanted = [
            ("server", 3.0),
            ("server_1", 1.0),
            ("server_2", 2.0),
            ("redis", 0.5),
        ];
        assert_eq!(spent.iter().collect::<Vec<_>>(), wanted);
        assert_eq!(spent.servers_s(), Some(3.0));
        let mut twice = spent.clone();
        twice.add(spent);
        assert_eq!(twice.servers_s(), Some(6.0));
        // One instance is the server.
        let spent = reading(&[4.0], 1.5).spent_since(&reading(&[3.0], 1.0));
        assert_eq!(
            spent.iter().collect::<Vec<_>>(),
            [("server", 1.0), ("redis", 0.5)]
        );
    }

    #[test]
    fn there_is_no_sum_of_what_is_not_known() {
        let before = reading(&[3.0, 5.0], 1.0);
        let mut after = reading(&[4.0, 7.0], 1.5);
        after.servers[0] = None;
        assert_eq!(after.sum(), None);
        let spent = after.spent_since(&before);
        assert_eq!(
            spent.iter().collect::<Vec<_>>(),
            [("server_2", 2.0), ("redis", 0.5)]
        );
    }
}
