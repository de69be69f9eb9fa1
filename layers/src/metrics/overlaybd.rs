//! The metrics of the C++ daemon, under the same names.
//!
//! metrics -> **overlaybd** -> page
//!
//! Node `pread` is what disks read of layers that are not on this host, from the cache or not; node
//! `download` is what is read from registries. As in the C++ daemon the kind of a series is in the label
//! `node`, and `type` and `mode` are empty; unlike there the samples have no timestamps, which were
//! those of a clock that Prometheus does not know.
//!
//! Source: format reference 9.2.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Metrics;
use super::text::{Kind, Text};

/// Bytes and requests a second, over the time between the last two samples.
#[derive(Debug, Default)]
pub struct Rates {
    last: Option<(Instant, [Count; 2])>,
    now: [Rate; 2],
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    bytes: u64,
    requests: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    bytes: f64,
    requests: f64,
}

const NODES: [&str; 2] = ["pread", "download"];

impl Rates {
    /// Looks at the counters; to be called once a second.
    pub fn sample(&mut self, metrics: &Metrics) {
        self.sample_at(Instant::now(), metrics);
    }

    fn sample_at(&mut self, now: Instant, metrics: &Metrics) {
        let counts = counts(metrics);
        if let Some((then, before)) = self.last.replace((now, counts)) {
            let seconds = now.saturating_duration_since(then).as_secs_f64();
            let rate = |now: u64, before: u64| match seconds > 0.0 {
                true => now.saturating_sub(before) as f64 / seconds,
                false => 0.0,
            };
            for ((rate_now, now), before) in self.now.iter_mut().zip(counts).zip(before) {
                *rate_now = Rate {
                    bytes: rate(now.bytes, before.bytes),
                    requests: rate(now.requests, before.requests),
                };
            }
        }
    }
}

fn counts(metrics: &Metrics) -> [Count; 2] {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [
        Count {
            bytes: load(&metrics.cache_hit_bytes) + load(&metrics.cache_waited_bytes),
            requests: load(&metrics.cache_hits) + load(&metrics.cache_misses),
        },
        Count {
            bytes: load(&metrics.registry_bytes),
            requests: load(&metrics.registry_requests),
        },
    ]
}

/// Writes the families; rates only if there are some.
pub(super) fn write(text: &mut Text, metrics: &Metrics, rates: Option<&Rates>, host: &str) {
    text.family(Kind::Gauge, "OverlayBD_Alive", "1 while the daemon runs.")
        .sample(&[("node", host)], 1);
    if let Some(rates) = rates {
        write_rates(text, rates);
    }
    let mut latency = text.family(
        Kind::Gauge,
        "OverlayBD_MaxLatency",
        "Longest time of the last 5 to 10 s in microseconds; reads that did not wait count as none.",
    );
    let peaks = [&metrics.wait_peak, &metrics.fetch_peak];
    for (node, peak) in NODES.into_iter().zip(peaks) {
        latency.sample(&labels(node), peak.micros());
    }
    let mut count = text.family(Kind::Counter, "OverlayBD_Count", "Bytes read.");
    for (node, total) in NODES.into_iter().zip(counts(metrics)) {
        count.sample(&[("node", node), ("type", "")], total.bytes);
    }
}

fn write_rates(text: &mut Text, rates: &Rates) {
    let mut throughput = text.family(
        Kind::Gauge,
        "OverlayBD_Read_Throughtput",
        "Bytes read in the last second.",
    );
    for (node, rate) in NODES.into_iter().zip(&rates.now) {
        throughput.sample(&labels(node), rate.bytes);
    }
    let mut requests = text.family(Kind::Gauge, "OverlayBD_QPS", "Reads in the last second.");
    for (node, rate) in NODES.into_iter().zip(&rates.now) {
        requests.sample(&labels(node), rate.requests);
    }
}

fn labels(node: &str) -> [(&'static str, &str); 3] {
    [("node", node), ("type", ""), ("mode", "")]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_those_between_the_last_two_samples() {
        let metrics = Metrics::default();
        let mut rates = Rates::default();
        let start = Instant::now();
        let set = |counter: &AtomicU64, value| counter.store(value, Ordering::Relaxed);
        set(&metrics.registry_bytes, 1_000);
        rates.sample_at(start, &metrics);
        set(&metrics.registry_bytes, 3_000);
        set(&metrics.registry_requests, 4);
        set(&metrics.cache_hits, 5);
        set(&metrics.cache_misses, 1);
        set(&metrics.cache_hit_bytes, 50);
        set(&metrics.cache_waited_bytes, 10);
        rates.sample_at(start + Duration::from_secs(2), &metrics);
        let mut text = Text::default();
        write(&mut text, &metrics, Some(&rates), "host");
        let text = text.into_string();
        for line in [
            "OverlayBD_Alive{node=\"host\"} 1",
            "OverlayBD_Read_Throughtput{node=\"pread\",type=\"\",mode=\"\"} 30",
            "OverlayBD_Read_Throughtput{node=\"download\",type=\"\",mode=\"\"} 1000",
            "OverlayBD_QPS{node=\"pread\",type=\"\",mode=\"\"} 3",
            "OverlayBD_QPS{node=\"download\",type=\"\",mode=\"\"} 2",
            "OverlayBD_Count{node=\"pread\",type=\"\"} 60",
            "OverlayBD_Count{node=\"download\",type=\"\"} 3000",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        rates.sample_at(start + Duration::from_secs(3), &metrics);
        assert!(rates.now.iter().all(|rate| rate.bytes == 0.0));
    }
}
