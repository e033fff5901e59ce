//! What `/proc` says of the processes of this machine.

use std::{collections::HashMap, fs};

use super::Usage;

/// Ticks a second in `/proc/*/stat`, the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// What this tool itself has used.
pub fn own_usage() -> Option<Usage> {
    read("self")
}

/// What the process `pid` has used.
pub fn usage(pid: u32) -> Option<Usage> {
    read(&pid.to_string())
}

fn read(pid: &str) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    from_proc(&stat, &status)
}

fn from_proc(stat: &str, status: &str) -> Option<Usage> {
    let stat = Stat::parse(stat)?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(Usage {
        cpu_s: stat.own_ticks / TICKS_PER_S,
        resident_bytes: kib * 1024.0,
    })
}

/// What `/proc/*/stat` says of a process.
#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: u32,
    own_ticks: f64,
    /// Of children that have ended, and of theirs.
    ended_ticks: f64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // The second field is a name in brackets that may hold anything. The parent is the 4th;
        // utime, stime, cutime and cstime are the 14th to 17th.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let mut fields = fields.skip(9);
        let mut ticks = || fields.next()?.parse::<f64>().ok();
        Some(Self {
            parent,
            own_ticks: ticks()? + ticks()?,
            ended_ticks: ticks()? + ticks()?,
        })
    }
}

/// All processes of this machine at one moment, by their ids.
#[derive(Debug, Default)]
pub struct Processes(HashMap<u32, Stat>);

impl Processes {
    /// Reads them now; those that end meanwhile are left out.
    pub fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let stats = pids.filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Stat::parse(&stat)?))
        });
        Self(stats.collect())
    }

    /// CPU time in seconds of a process and of all that descend from it, those that have ended
    /// included: PostgreSQL has a process for every connection.
    pub fn family_cpu_s(&self, pid: u32) -> Option<f64> {
        let mut ticks = 0.0;
        let mut family = vec![pid];
        while let Some(pid) = family.pop() {
            let stat = self.0.get(&pid)?;
            ticks += stat.own_ticks + stat.ended_ticks;
            let children = self.0.iter().filter(|(_, stat)| stat.parent == pid);
            family.extend(children.map(|(pid, _)| *pid));
        }
        Some(ticks / TICKS_PER_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_brackets_and_spaces() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let usage = from_proc(stat, "Name:\tx\nVmRSS:\t  2048 kB\n").unwrap();
        assert_eq!((usage.cpu_s, usage.resident_bytes), (3.0, 2048.0 * 1024.0));
    }

    #[test]
    fn a_family_is_a_process_its_children_and_those_that_ended() {
        let stat = |parent: u32, ticks: [u32; 4]| {
            let [utime, stime, cutime, cstime] = ticks;
            let line =
                format!("1 (x) S {parent} 2 3 4 5 6 7 8 9 10 {utime} {stime} {cutime} {cstime} 0");
            Stat::parse(&line).unwrap()
        };
        let processes = Processes(HashMap::from([
            (1, stat(0, [1_000, 0, 0, 0])),
            (10, stat(1, [100, 50, 25, 25])),
            (11, stat(10, [100, 0, 0, 0])),
            (12, stat(11, [0, 100, 0, 100])),
            (20, stat(1, [5_000, 0, 0, 0])),
        ]));
        assert_eq!(processes.family_cpu_s(10), Some(5.0));
        assert_eq!(processes.family_cpu_s(20), Some(50.0));
        assert_eq!(processes.family_cpu_s(99), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_own_process_can_be_read() {
        assert!(own_usage().is_some_and(|usage| usage.resident_bytes > 0.0));
        let own = Processes::read().family_cpu_s(std::process::id());
        assert!(own.is_some());
    }
}
