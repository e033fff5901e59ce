//! What a run found, as a table for people or one JSON object for programs: the same names in both.

use serde_json::{Map, Value, json};

use super::{
    check::Verdict,
    probe::{Reading, Spent, Usage, cpu_each_us},
    stats::{Failures, Summary},
};

/// What a run found. Names end in their unit.
#[derive(Debug)]
pub struct Report {
    scenario: &'static str,
    figures: Vec<(String, Value)>,
    latencies: Vec<(String, Summary)>,
    failures: Vec<(String, u64, String)>,
}

impl Report {
    /// An empty report.
    pub fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            figures: Vec::new(),
            latencies: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds one figure.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.figures.push((name.into(), value.into()));
    }

    /// Adds one distribution.
    pub fn latency(&mut self, name: impl Into<String>, summary: Summary) {
        self.latencies.push((name.into(), summary));
    }

    /// Adds what failed.
    pub fn failures(&mut self, failures: &Failures) {
        self.failures.extend(failures.list());
    }

    /// Adds what the checker found, its names after `prefix`.
    pub fn verdict(&mut self, prefix: &str, verdict: &Verdict) {
        for (name, count) in [
            ("acknowledged", verdict.acknowledged),
            ("failed", verdict.failed),
            ("delivered", verdict.delivered),
            ("lost", verdict.lost),
            ("unverified", verdict.unverified),
            ("duplicates", verdict.duplicates),
            ("gaps", verdict.gaps),
            ("disorder", verdict.disorder),
            ("misdelivered", verdict.misdelivered),
            ("foreign", verdict.foreign),
        ] {
            self.figure(format!("{prefix}{name}"), count);
        }
    }

    /// Adds the CPU time between two readings, per operation, and the servers' memory.
    pub fn server(&mut self, before: &Reading, after: &Reading, operations: u64) {
        self.spent("", "operation", &after.spent_since(before), operations);
        self.memory("before", before);
        self.memory("after", after);
    }

    /// Adds CPU time, whole and for each of `operations`, which are `what`; names after `prefix`.
    pub fn spent(&mut self, prefix: &str, what: &str, spent: &Spent, operations: u64) {
        for (name, cpu_s) in spent.iter() {
            self.figure(format!("{prefix}{name}_cpu_s"), round(cpu_s));
            if let Some(us) = cpu_each_us(cpu_s, operations) {
                self.figure(format!("{prefix}{name}_cpu_per_{what}_us"), round(us));
            }
        }
    }

    /// Adds the CPU time this tool used between two readings.
    pub fn tool(&mut self, before: Option<Usage>, after: Option<Usage>) {
        if let (Some(before), Some(after)) = (before, after) {
            self.figure("tool_cpu_s", round(after.cpu_s - before.cpu_s));
        }
    }

    /// Adds one reading of the servers' memory.
    pub fn memory(&mut self, when: &str, reading: &Reading) {
        for (name, Usage { resident_bytes, .. }) in reading.servers() {
            let mib = round(resident_bytes / (1024.0 * 1024.0));
            self.figure(format!("{name}_memory_{when}_mib"), mib);
        }
    }

    /// The report as people read it.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.scenario);
        for (name, value) in &self.figures {
            text.push_str(&format!("  {name:<34} {:>16}\n", plain(value)));
        }
        if !self.latencies.is_empty() {
            text.push_str(&format!("  {:<34}", "latency_us"));
            for column in ["count", "min", "p50", "p90", "p99", "p99.9", "max"] {
                text.push_str(&format!(" {column:>10}"));
            }
            text.push('\n');
        }
        for (name, s) in &self.latencies {
            text.push_str(&format!("    {name:<32} {:>10}", s.count));
            for us in [s.min_us, s.p50_us, s.p90_us, s.p99_us, s.p999_us, s.max_us] {
                text.push_str(&format!(" {us:>10.0}"));
            }
            text.push('\n');
        }
        for (kind, count, example) in &self.failures {
            text.push_str(&format!(
                "  failed {count} times: {kind}; for example: {example}\n"
            ));
        }
        text
    }

    /// The report as programs read it.
    pub fn json(&self) -> Value {
        let mut object: Map<String, Value> = self.figures.iter().cloned().collect();
        object.insert("scenario".to_owned(), self.scenario.into());
        let latencies: Map<String, Value> = self
            .latencies
            .iter()
            .map(|(name, s)| (name.clone(), json!(s)))
            .collect();
        object.insert("latency".to_owned(), latencies.into());
        let failure = |(kind, count, example): &(String, u64, String)| json!({ "kind": kind, "count": count, "example": example });
        object.insert(
            "failures".to_owned(),
            self.failures.iter().map(failure).collect(),
        );
        Value::Object(object)
    }
}

/// Three decimals are enough for every figure.
pub fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_json_say_the_same() {
        let mut report = Report::new("chat");
        report.figure("rate_per_s", round(1234.56789));
        report.verdict(
            "",
            &Verdict {
                lost: 3,
                ..Verdict::default()
            },
        );
        report.latency(
            "delivered",
            Summary {
                count: 5,
                ..Summary::default()
            },
        );
        let reading = |cpu_s| Reading {
            servers: vec![Some(Usage {
                cpu_s,
                resident_bytes: 1024.0 * 1024.0,
            })],
            others: vec![("redis".to_owned(), Some(cpu_s))],
        };
        report.server(&reading(1.0), &reading(1.5), 1000);
        let failures = Failures::default();
        failures.count("answered 10003", &"slow down");
        report.failures(&failures);

        let json = report.json();
        assert_eq!(json["rate_per_s"], 1234.568);
        assert_eq!(json["lost"], 3);
        assert_eq!(json["latency"]["delivered"]["count"], 5);
        assert_eq!(json["server_cpu_per_operation_us"], 500.0);
        assert_eq!(json["redis_cpu_s"], 0.5);
        assert_eq!(json["server_memory_after_mib"], 1.0);
        assert_eq!(json["failures"][0]["count"], 1);
        let table = report.table();
        for part in ["rate_per_s", "1234.568", "p99.9", "delivered", "slow down"] {
            assert!(table.contains(part), "{part} is missing in {table}");
        }
    }
}
