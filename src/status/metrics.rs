//! A snapshot as OpenMetrics text. Pure.
//!
//! One registry per scrape, filled from the snapshot of that moment: nothing is counted twice and nothing is kept for
//! what is gone. Names are `herdwire_` and the blueprint's words; units are base units, last in the name.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::snapshot::{BridgeState, BridgeView, ChannelView, FrontView, HerdView, InstanceView, Snapshot, Status};

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const STATUSES: [Status; 6] =
    [Status::Stopped, Status::Launching, Status::Online, Status::Stopping, Status::WaitingRestart, Status::Errored];

/// The whole answer of a scrape.
///
/// # Errors
/// None that a `String` could make.
pub fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("herdwire");
    registry.register_collector(Box::new(Figures(snapshot)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Figures(Snapshot);

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        supervisor(&mut out, &self.0)?;
        instances(&mut out, &self.0)?;
        herds(&mut out, &self.0.herds)?;
        channels(&mut out, &self.0.herds)?;
        self.0.bridge.as_ref().map_or(Ok(()), |view| bridge(&mut out, view))?;
        self.0.front.as_ref().map_or(Ok(()), |view| front(&mut out, view))?;
        host(&mut out, &self.0)
    }
}

fn supervisor(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let view = &snapshot.supervisor;
    let labels = [("version", view.version.as_str()), ("node", view.node.as_str())];
    out.info("supervisor", "What runs.", &labels)?;
    out.gauge("supervisor_uptime", "Since this supervisor process began.", SECONDS, seconds(view.uptime_ms))?;
    out.gauge("supervisor_epoch", "Supervisor processes that the keeper has started.", None, view.epoch)?;
    out.gauge("supervisor_warnings", "Sentences for the operator that stand.", None, count(view.warnings.len()))?;
    out.gauge("store_descriptors", "Descriptors in the keeper's store.", None, view.store_used)?;
    out.gauge("store_descriptors_limit", "Descriptors that the store takes.", None, view.store_limit)
}

fn instances(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let by_status = STATUSES.map(|status| {
        let those = snapshot.instances.iter().filter(|instance| instance.status == status);
        (vec![("status", status.as_str().to_owned())], count(those.count()))
    });
    out.gauges("instances", "Instances by their status.", None, by_status)?;
    let gauge = |of: fn(&InstanceView) -> f64| snapshot.instances.iter().map(move |one| (of_instance(one), of(one)));
    let counter = |of: fn(&InstanceView) -> u64| snapshot.instances.iter().map(move |one| (of_instance(one), of(one)));
    let up = |one: &InstanceView| if one.status == Status::Online { 1.0 } else { 0.0 };
    out.gauges("instance_up", "Whether it is online.", None, gauge(up))?;
    out.gauges("instance_uptime", "Since its last start.", SECONDS, gauge(|one| seconds(one.uptime_ms)))?;
    out.gauges("instance_memory", "Resident set.", BYTES, gauge(|one| one.memory_bytes as f64))?;
    let cpu = |one: &InstanceView| f64::from(one.cpu_percent) / 100.0;
    out.gauges("instance_cpu_ratio", "CPU time per time; 1 is one core full.", None, gauge(cpu))?;
    let unstable = |one: &InstanceView| f64::from(one.unstable_restarts);
    out.gauges("instance_unstable_restarts", "Failures that count against max_restarts.", None, gauge(unstable))?;
    let restarts = counter(|one| u64::from(one.restarts));
    out.counters("instance_restarts", "Restarts since it was started by hand.", restarts)
}

fn herds(out: &mut Out, herds: &[HerdView]) -> fmt::Result {
    let gauge = |of: fn(&HerdView) -> u64| herds.iter().map(move |herd| (vec![label("herd", &herd.name)], of(herd)));
    out.gauges("herd_participants", "Who holds a slot.", None, gauge(|herd| u64::from(herd.participants)))?;
    out.gauges("herd_memory", "Rings and directory.", BYTES, gauge(|herd| herd.memory_bytes))
}

fn channels(out: &mut Out, herds: &[HerdView]) -> fmt::Result {
    let figures = |of: fn(&ChannelView) -> u64| {
        let one = move |herd: &HerdView, channel: &ChannelView| (of_channel(herd, channel), of(channel));
        herds.iter().flat_map(move |herd| herd.channels.iter().map(move |channel| one(herd, channel)))
    };
    let subscribers = figures(|channel| u64::from(channel.subscribers));
    out.gauges("channel_subscribers", "Participants that listen.", None, subscribers)?;
    out.counters("channel_published", "Messages published.", figures(|channel| channel.published))?;
    out.counters("channel_delivered", "Messages handed to a subscriber.", figures(|channel| channel.delivered))?;
    out.counters("channel_lost", "Messages that a subscriber missed.", figures(|channel| channel.lost))?;
    out.counters("channel_rejected", "Messages refused by a full ring.", figures(|channel| channel.rejected))
}

fn bridge(out: &mut Out, view: &BridgeView) -> fmt::Result {
    let up = u32::from(view.state == BridgeState::Connected);
    out.gauge("bridge_up", "Whether the bridge is connected.", None, up)?;
    out.counter("bridge_sent", "Messages sent to other hosts.", view.sent)?;
    out.counter("bridge_received", "Messages received from other hosts.", view.received)?;
    out.counter("bridge_dropped", "Messages given up because the spool was full.", view.dropped)?;
    out.counter("bridge_missed", "Messages of other hosts that were missed.", view.missed)?;
    out.counter("bridge_reconnects", "Connections made again.", view.reconnects)?;
    out.gauge("bridge_spooled", "Waiting for Redis.", BYTES, view.spooled_bytes)
}

fn front(out: &mut Out, view: &FrontView) -> fmt::Result {
    out.gauge("front_sessions", "Browsers that hold a session.", None, view.sessions)?;
    out.counter("front_received", "Messages from browsers.", view.received)?;
    out.counter("front_sent", "Messages to browsers.", view.sent)?;
    out.counter("front_slow_closed", "Sessions closed because they did not keep up.", view.slow_closed)?;
    out.counter("front_refused", "Handshakes refused.", view.refused)
}

fn host(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let view = &snapshot.host;
    out.gauge("host_cpus", "Cores.", None, view.cpus)?;
    out.gauge("host_load1", "Load over a minute.", None, view.load_1m)?;
    out.gauge("host_memory_total", "Memory of the machine.", BYTES, view.memory_total_bytes)?;
    out.gauge("host_memory_used", "Memory in use.", BYTES, view.memory_used_bytes)
}

const SECONDS: Option<&Unit> = Some(&Unit::Seconds);
const BYTES: Option<&Unit> = Some(&Unit::Bytes);

type Labels = Vec<(&'static str, String)>;

fn label(key: &'static str, value: &str) -> (&'static str, String) {
    (key, value.to_owned())
}

fn of_instance(instance: &InstanceView) -> Labels {
    vec![
        label("herd", &instance.herd),
        label("app", &instance.app),
        ("id", instance.id.to_string()),
        ("index", instance.index.to_string()),
    ]
}

fn of_channel(herd: &HerdView, channel: &ChannelView) -> Labels {
    vec![label("herd", &herd.name), label("channel", &channel.name)]
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn count(number: usize) -> u64 {
    number as u64
}

/// Writes metrics: each with its description, then its figures.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        figures: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        figures.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, value)
    }

    fn counters(&mut self, name: &str, help: &str, figures: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        figures.into_iter().try_for_each(|(labels, value)| encode_counter(&mut family.encode_family(&labels)?, value))
    }

    fn info(&mut self, name: &str, help: &str, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }
}

fn encode_counter(metric: &mut MetricEncoder, value: impl EncodeCounterValue) -> fmt::Result {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
}
