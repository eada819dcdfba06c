//! Does another mount target lead anywhere that another connection does not? EFS says which partition a connection
//! reaches, and this asks over some connections to each host that are used for nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nfs41::partition::{Binding, Identity, PartitionId, ScaleUp, bind};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{Host, Setup};

/// Digits of a partition's id that a report shows: they only have to tell one from the other.
const MAX_SHOWN_DIGITS: usize = 8;

/// What one connection came to.
enum Reached {
    Partition(PartitionId),
    /// The server does not know the program.
    NotSupported,
    /// It says no, or nothing that can be read.
    Not(String),
}

/// What the connections to one host have reached.
#[derive(Default)]
struct OfHost {
    host: String,
    /// How many connections reach each.
    partitions: BTreeMap<PartitionId, usize>,
    not_supported: usize,
    errors: BTreeMap<String, usize>,
}

/// What was found.
pub struct Partitions {
    connections: usize,
    hosts: Vec<OfHost>,
    scale_up: Option<ScaleUp>,
}

impl Partitions {
    /// Asks all hosts at once, over `connections` to each.
    pub async fn ask(setup: &Arc<Setup>, connections: usize) -> Self {
        // One client, as one efs-proxy would be.
        let identity = Identity::random();
        let mut tasks = JoinSet::new();
        for (index, host) in setup.options.hosts.iter().enumerate() {
            for _ in 0..connections {
                let (setup, host) = (Arc::clone(setup), host.clone());
                tasks.spawn(async move { (index, connection(&setup, &host, &identity).await) });
            }
        }
        let of_host = |host: &Host| OfHost { host: host.to_string(), ..OfHost::default() };
        let mut found = Self { connections, hosts: setup.options.hosts.iter().map(of_host).collect(), scale_up: None };
        for (index, (reached, scale_up)) in tasks.join_all().await {
            found.scale_up = found.scale_up.or(scale_up);
            let host = &mut found.hosts[index];
            match reached {
                Reached::Partition(id) => *host.partitions.entry(id).or_default() += 1,
                Reached::NotSupported => host.not_supported += 1,
                Reached::Not(err) => *host.errors.entry(err).or_default() += 1,
            }
        }
        found
    }

    /// Every partition that was reached, and how many hosts reach it.
    fn all(&self) -> BTreeMap<&PartitionId, usize> {
        let mut all = BTreeMap::new();
        for id in self.hosts.iter().flat_map(|host| host.partitions.keys()) {
            *all.entry(id).or_default() += 1;
        }
        all
    }

    fn shared(&self) -> usize {
        self.all().values().filter(|hosts| **hosts > 1).count()
    }

    /// What it means for whoever thinks about another mount target.
    fn meaning(&self) -> String {
        let (all, shared) = (self.all().len(), self.shared());
        let reached: Vec<_> = self.hosts.iter().filter(|host| !host.partitions.is_empty()).collect();
        let sets: BTreeSet<Vec<_>> = reached.iter().map(|host| host.partitions.keys().collect()).collect();
        let hosts = reached.len();
        if hosts == 0 && self.hosts.iter().any(|host| host.not_supported > 0) {
            return "The server does not say which partition a connection reaches. What another mount target brings, only a \
                    measurement shows."
                .to_owned();
        }
        match (hosts, all) {
            (0, _) => {
                "No connection was told a partition: nothing is known of what another mount target brings.".to_owned()
            }
            (1, 1) => format!(
                "All connections to {} reach one partition. Ask two mount targets to see whether they differ.",
                reached[0].host
            ),
            (1, all) => format!(
                "The connections to {} reach {all} partitions: another connection may bring throughput without another \
                 mount target. Ask two of them to see whether they differ.",
                reached[0].host
            ),
            (hosts, all) if shared == 0 => format!(
                "The {hosts} mount targets lead to {all} partitions, and none to one of another's: another mount target \
                 reaches what no connection to the others does. Whether that brings throughput, a measurement shows."
            ),
            (hosts, all) if sets.len() == 1 => format!(
                "All {hosts} mount targets lead to the same {all} partition{}: another mount target reaches nothing that \
                 another connection does not. Expect no throughput of it.",
                if all == 1 { "" } else { "s" }
            ),
            (hosts, all) => format!(
                "The {hosts} mount targets lead to {all} partitions, {shared} of them to more than one target: another \
                 mount target reaches some that the others do not. With few connections some may not have been seen."
            ),
        }
    }

    /// A line for each host, and what it means.
    pub fn text(&self) -> String {
        let all = self.all();
        let letter = |id: &PartitionId| {
            let index = all.keys().position(|known| *known == id).unwrap_or_default();
            match u8::try_from(index).ok().filter(|index| *index < 26) {
                Some(index) => char::from(b'a' + index).to_string(),
                None => format!("#{}", index + 1),
            }
        };
        let mut text = format!("Partitions, by {} connections to each host\n", self.connections);
        for host in &self.hosts {
            let mut parts: Vec<_> =
                host.partitions.iter().map(|(id, count)| format!("{} × {count} ({})", letter(id), shown(id))).collect();
            if host.not_supported > 0 {
                parts.push(format!("not supported × {}", host.not_supported));
            }
            parts.extend(host.errors.iter().map(|(err, count)| format!("{err} × {count}")));
            text += &format!("  {}  {}\n", host.host, parts.join(", "));
        }
        if let Some(scale_up) = &self.scale_up {
            text += &format!(
                "  EFS would have a client open up to {} connections, from {} MiB/s for {} s on\n",
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
            "partitions": self.all().len(),
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

fn shown(id: &PartitionId) -> String {
    let mut digits = hex(id);
    digits.truncate(MAX_SHOWN_DIGITS);
    digits + "…"
}

async fn connection(setup: &Setup, host: &Host, identity: &Identity) -> (Reached, Option<ScaleUp>) {
    let asked = timeout(setup.dial.timeout, async {
        let stream = TcpStream::connect(host.resolve().await?).await?;
        stream.set_nodelay(true)?;
        match &setup.dial.secure {
            None => bind(stream, identity).await,
            Some(secure) => bind(secure.tls.connect(stream).await.map_err(std::io::Error::other)?, identity).await,
        }
    });
    match asked.await {
        Err(_) => (Reached::Not(format!("no answer within {:?}", setup.dial.timeout)), None),
        Ok(Err(err)) => (Reached::Not(err.to_string()), None),
        Ok(Ok(None)) => (Reached::NotSupported, None),
        Ok(Ok(Some((binding, scale_up)))) => {
            let reached = match binding {
                Binding::Preferred(id) | Binding::Ready(id) => Reached::Partition(id),
                Binding::Retry(err) => Reached::Not(format!("again: {err}")),
                Binding::RetryLater(err) => Reached::Not(format!("later: {err}")),
                Binding::Error(err) => Reached::Not(format!("error: {err}")),
            };
            (reached, Some(scale_up))
        }
    }
}
