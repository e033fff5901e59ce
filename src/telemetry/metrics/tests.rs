//! What is rendered, and under which names.

use super::*;

#[test]
fn everything_is_rendered_under_its_name() {
    let metrics = Metrics::default();
    metrics.sessions.tcp.inc();
    metrics.sends.repeated.inc();
    metrics.sign_ins.refused.inc();
    metrics.closed("idle");
    metrics.send_latency.observe(0.001);
    metrics.deliveries.inc_by(3);
    let text = metrics.render();
    for line in [
        concat!(
            "im_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
        "im_sessions{transport=\"tcp\"} 1",
        "im_sessions{transport=\"websocket\"} 0",
        "im_sends_total{result=\"ok\"} 0",
        "im_sends_total{result=\"repeated\"} 1",
        "im_sign_ins_total{result=\"refused\"} 1",
        "im_closes_total{reason=\"idle\"} 1",
        "im_send_latency_seconds_count 1",
        "im_commit_latency_seconds_count 0",
        "im_batch_sends_count 0",
        "im_batch_rows_count 0",
        "im_deliveries_total 3",
        "im_gaps_filled_total 0",
        "im_catch_up_reads_total 0",
        "im_sync_pages_total 0",
        "im_uploads_total{result=\"cut_off\"} 0",
        "im_upload_bytes_total 0",
        "im_bridge_published_total 0",
        "im_bridge_publish_dropped_total 0",
        "im_bridge_publish_queue 0",
        "im_bridge_received_total 0",
        "im_bridge_ignored_total 0",
        "im_bridge_discontinuities_total 0",
        "im_bridge_reconnects_total 0",
        "im_bridge_subscriptions 0",
        "im_business_auths_total{result=\"refused\"} 0",
        "im_business_lookups_total{result=\"failed\"} 0",
        "im_business_not_asked_total 0",
        "im_business_breaker_open 0",
        "im_webhook_delivered_total 0",
        "im_webhook_failed_total 0",
        "im_webhook_given_up_total 0",
        "im_webhook_oldest_seconds 0",
        "im_before_send_total{result=\"denied\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for name in [
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(text.lines().any(|l| l.starts_with(name)), "{name}");
    }
    assert!(text.ends_with("# EOF\n"));
}
