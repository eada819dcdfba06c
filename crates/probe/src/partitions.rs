//! Whether another mount target reaches partitions that another connection does not. EFS reports which partition a
//! connection reaches; this module queries it over several connections to each host, used for nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nfs41::partition::{Binding, Identity, PartitionId, ScaleUp, bind};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{Host, Setup};

/// Digits of a partition ID in the report: enough to tell partitions apart.
const SHORT_ID_DIGITS: usize = 8;

/// The result of one connection.
enum Reply {
    Partition(PartitionId),
    /// The server does not know the RPC program.
    NotSupported,
    /// An error, or a reply that cannot be decoded.
    Failed(String),
}

/// The results of one host.
#[derive(Default)]
struct HostPartitions {
    host: String,
    /// Number of connections that reach each partition.
    partitions: BTreeMap<PartitionId, usize>,
    not_supported: usize,
    errors: BTreeMap<String, usize>,
}

/// The results of all hosts.
pub struct Partitions {
    connections: usize,
    hosts: Vec<HostPartitions>,
    scale_up: Option<ScaleUp>,
}

impl Partitions {
    /// Queries all hosts concurrently, over `connections` connections to each.
    pub async fn query(setup: &Arc<Setup>, connections: usize) -> Self {
        // One identity for all connections, like one efs-proxy.
        let identity = Identity::random();
        let mut tasks = JoinSet::new();
        for (index, host) in setup.options.hosts.iter().enumerate() {
            for _ in 0..connections {
                let (setup, host) = (Arc::clone(setup), host.clone());
                tasks.spawn(async move { (index, query_connection(&setup, &host, &identity).await) });
            }
        }
        let empty = |host: &Host| HostPartitions { host: host.to_string(), ..HostPartitions::default() };
        let mut found = Self { connections, hosts: setup.options.hosts.iter().map(empty).collect(), scale_up: None };
        for (index, (reply, scale_up)) in tasks.join_all().await {
            found.scale_up = found.scale_up.or(scale_up);
            let host = &mut found.hosts[index];
            match reply {
                Reply::Partition(id) => *host.partitions.entry(id).or_default() += 1,
                Reply::NotSupported => host.not_supported += 1,
                Reply::Failed(err) => *host.errors.entry(err).or_default() += 1,
            }
        }
        found
    }

    /// All partitions, with the number of hosts that reach each.
    fn hosts_by_partition(&self) -> BTreeMap<&PartitionId, usize> {
        let mut all = BTreeMap::new();
        for id in self.hosts.iter().flat_map(|host| host.partitions.keys()) {
            *all.entry(id).or_default() += 1;
        }
        all
    }

    /// Number of partitions that several hosts reach.
    fn shared(&self) -> usize {
        self.hosts_by_partition().values().filter(|hosts| **hosts > 1).count()
    }

    /// What the result means for adding a mount target.
    fn meaning(&self) -> String {
        let (all, shared) = (self.hosts_by_partition().len(), self.shared());
        let reached: Vec<_> = self.hosts.iter().filter(|host| !host.partitions.is_empty()).collect();
        let sets: BTreeSet<Vec<_>> = reached.iter().map(|host| host.partitions.keys().collect()).collect();
        let hosts = reached.len();
        if hosts == 0 && self.hosts.iter().any(|host| host.not_supported > 0) {
            return "The server does not report partitions. Measure the gain of another mount target with \
                    `efs-autoscale bench`."
                .to_owned();
        }
        match (hosts, all) {
            (0, _) => "No connection received a partition, so this says nothing about another mount target.".to_owned(),
            (1, 1) => format!(
                "All connections to {} reach one partition. Probe two mount targets to see whether they differ.",
                reached[0].host
            ),
            (1, all) => format!(
                "The connections to {} reach {all} partitions: another connection may raise throughput without \
                 another mount target. Probe two mount targets to see whether they differ.",
                reached[0].host
            ),
            (hosts, all) if shared == 0 => format!(
                "The {hosts} mount targets reach {all} partitions, none of them in common: another mount target reaches \
                 partitions that no connection to the others does. Measure whether that raises throughput."
            ),
            (hosts, all) if sets.len() == 1 => format!(
                "All {hosts} mount targets reach the same {all} partition{}: another mount target reaches nothing that \
                 another connection does not. Do not expect more throughput from it.",
                if all == 1 { "" } else { "s" }
            ),
            (hosts, all) => format!(
                "The {hosts} mount targets reach {all} partitions, {shared} of them through several targets: another mount \
                 target reaches some that the others do not. With few connections, some may have been missed."
            ),
        }
    }

    /// The report: a line for each host, and the meaning.
    pub fn text(&self) -> String {
        let all = self.hosts_by_partition();
        let label = |id: &PartitionId| {
            let index = all.keys().position(|known| *known == id).unwrap_or_default();
            match u8::try_from(index).ok().filter(|index| *index < 26) {
                Some(index) => char::from(b'a' + index).to_string(),
                None => format!("#{}", index + 1),
            }
        };
        let mut text = format!("Partitions, over {} connections to each host\n", self.connections);
        for host in &self.hosts {
            let mut parts: Vec<_> = host
                .partitions
                .iter()
                .map(|(id, count)| format!("{} × {count} ({})", label(id), short_id(id)))
                .collect();
            if host.not_supported > 0 {
                parts.push(format!("not supported × {}", host.not_supported));
            }
            parts.extend(host.errors.iter().map(|(err, count)| format!("{err} × {count}")));
            text += &format!("  {}  {}\n", host.host, parts.join(", "));
        }
        if let Some(scale_up) = &self.scale_up {
            text += &format!(
                "  EFS recommends up to {} connections once a client sustains {} MiB/s for {} s\n",
                scale_up.max_connections,
                scale_up.bytes_per_second >> 20,
                scale_up.seconds
            );
        }
        text + &format!("  {}\n", self.meaning())
    }

    pub fn object(&self) -> Value {
        let hosts = self.hosts.iter().map(|host| {
            let reached =
                host.partitions.iter().map(|(id, count)| json!({ "partition": hex(id), "connections": count }));
            let errors = host.errors.iter().map(|(err, count)| json!({ "error": err, "connections": count }));
            json!({
                "host": host.host,
                "reached": reached.collect::<Vec<_>>(),
                "not_supported": host.not_supported,
                "errors": errors.collect::<Vec<_>>(),
            })
        });
        json!({
            "connections": self.connections,
            "hosts": hosts.collect::<Vec<_>>(),
            "partitions": self.hosts_by_partition().len(),
            "shared": self.shared(),
            "scale_up": self.scale_up.map(|scale_up| json!({
                "max_connections": scale_up.max_connections,
                "bytes_per_second": scale_up.bytes_per_second,
                "seconds": scale_up.seconds,
                "window_seconds": scale_up.window_seconds,
            })),
            "means": self.meaning(),
        })
    }
}

fn hex(id: &PartitionId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn short_id(id: &PartitionId) -> String {
    let mut digits = hex(id);
    digits.truncate(SHORT_ID_DIGITS);
    digits + "…"
}

async fn query_connection(setup: &Setup, host: &Host, identity: &Identity) -> (Reply, Option<ScaleUp>) {
    let result = timeout(setup.dial.timeout, async {
        let stream = TcpStream::connect(host.resolve().await?).await?;
        stream.set_nodelay(true)?;
        match &setup.dial.tls {
            None => bind(stream, identity).await,
            Some(setup) => bind(setup.tls.connect(stream).await.map_err(std::io::Error::other)?, identity).await,
        }
    });
    match result.await {
        Err(_) => (Reply::Failed(format!("no reply within {:?}", setup.dial.timeout)), None),
        Ok(Err(err)) => (Reply::Failed(err.to_string()), None),
        Ok(Ok(None)) => (Reply::NotSupported, None),
        Ok(Ok(Some((binding, scale_up)))) => {
            let reply = match binding {
                Binding::Preferred(id) | Binding::Ready(id) => Reply::Partition(id),
                Binding::Retry(err) => Reply::Failed(format!("retry: {err}")),
                Binding::RetryLater(err) => Reply::Failed(format!("retry later: {err}")),
                Binding::Error(err) => Reply::Failed(format!("error: {err}")),
            };
            (reply, Some(scale_up))
        }
    }
}
