//! What is asked once, in a directory of the probe's own: one small function for each fact, in the order of the
//! report.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use nfs41::{Client, Create, Error, Kind, Place, Put, Set, Status, Time, Wanted};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Setup,
    pipe::Pipe,
    report::{Asked, Check, Outcome, Patient, answered, both, no, not_asked, prepared, refused, unknown, yes},
    target::{Target, permissions},
};
use crate::grouped;

/// How often what could be chance is done.
const ROUNDS: usize = 10;

pub const CHECKS: &[Check<World>] = &[
    Check {
        key: "one_server",
        what: "All hosts are one server (owner and scope)",
        means: "They are several servers: Linux keeps a connection for each mount. The NFS client of the service does \
                so in any case.",
        needed: false,
        ask: |world| Box::pin(one_server(world)),
    },
    Check {
        key: "directory",
        what: "A directory is made below the root",
        means: "Nothing can be written here: a policy without ClientWrite, a root that is squashed, permissions of the \
                directory, or a file system that is a replica. The service can only read.",
        needed: true,
        ask: |world| Box::pin(directory(world)),
    },
    Check {
        key: "access_agrees",
        what: "ACCESS says beforehand whether it can be written",
        means: "ACCESS cannot be relied on to find out what a policy forbids: only a try shows it.",
        needed: false,
        ask: |world| Box::pin(access_agrees(world)),
    },
    Check {
        key: "owner",
        what: "What is made belongs to the user that this runs as",
        means: "The server maps users: an access point with a user of its own, or a squashed root. Permissions are \
                judged for that user.",
        needed: false,
        ask: |world| Box::pin(owner(world)),
    },
    Check {
        key: "read_anonymous",
        what: "READ takes the anonymous stateid (a read in one round trip, nothing opened)",
        means: "Every read opens and closes the file, in the same round trip where the next but one line says yes.",
        needed: false,
        ask: |world| Box::pin(read_anonymous(world)),
    },
    Check {
        key: "read_opened",
        what: "READ of a file that is opened for it works (the way out where the anonymous stateid is refused)",
        means: "If the line before says no, too, nothing can be read.",
        needed: true,
        ask: |world| Box::pin(read_opened(world)),
    },
    Check {
        key: "put_one_call",
        what: "OPEN, WRITE, CLOSE and RENAME go in one compound by the current stateid (a whole put in one round trip)",
        means: "A put takes four round trips instead of one. The client finds out by itself and goes on.",
        needed: false,
        ask: |world| Box::pin(put_one_call(world)),
    },
    Check {
        key: "put_fall_back",
        what: "A put works without the current stateid (the way out where it is refused)",
        means: "If the line before says no, too, nothing can be written.",
        needed: true,
        ask: |world| Box::pin(put_fall_back(world)),
    },
    Check {
        key: "pieces",
        what: "A content of several calls is written, committed, and read back the same",
        means: "Files larger than one call cannot be written.",
        needed: true,
        ask: |world| Box::pin(pieces(world)),
    },
    Check {
        key: "times",
        what: "SETATTR keeps times to the nanosecond",
        means: "Two versions of a file may have the same tag: If-Match and If-None-Match of the service cannot be \
                relied on.",
        needed: true,
        ask: |world| Box::pin(times(world)),
    },
    Check {
        key: "create_guarded",
        what: "A GUARDED create makes a new file and refuses one that is there",
        means: "The service does not use it; who writes with Create::New cannot.",
        needed: false,
        ask: |world| Box::pin(create_guarded(world)),
    },
    Check {
        key: "create_exclusive",
        what: "An EXCLUSIVE4_1 create knows its own number again and refuses others",
        means: "The service does not use it; who writes with Create::Exclusive cannot.",
        needed: false,
        ask: |world| Box::pin(create_exclusive(world)),
    },
    Check {
        key: "link",
        what: "LINK gives a second name, and refuses one that is taken",
        means: "If-None-Match: * of the service fails, and conditional replaces do.",
        needed: true,
        ask: |world| Box::pin(link(world)),
    },
    Check {
        key: "rename_over_open",
        what: "RENAME replaces a file that is open",
        means: "Files that somebody reads cannot be replaced meanwhile.",
        needed: true,
        ask: |world| Box::pin(rename_over_open(world)),
    },
    Check {
        key: "hold_replaced",
        what: "A file that is opened by CLAIM_FH and then replaced is still read to its end",
        means: "A long download breaks off when the file is replaced meanwhile.",
        needed: false,
        ask: |world| Box::pin(hold_replaced(world)),
    },
    Check {
        key: "read_on_replaced",
        what: "A file that is replaced is still read without being open, by its handle",
        means: "It is as the protocol lets it be: the client opens what it reads for long.",
        needed: false,
        ask: |world| Box::pin(read_on_replaced(world)),
    },
    Check {
        key: "lock",
        what: "LOCK locks a whole file, and whoever else asks then is DENIED",
        means: "Appends, If-Match and If-Unmodified-Since of two tasks may overtake each other.",
        needed: true,
        ask: |world| Box::pin(lock(world)),
    },
    Check {
        key: "append",
        what: "Appends of two clients are all there, each whole",
        means: "POST ?append loses content.",
        needed: true,
        ask: |world| Box::pin(append(world)),
    },
    Check {
        key: "readdir",
        what: "READDIR gives each entry once, page by page, also when the one it stopped at is removed",
        means: "Listings miss entries or repeat them.",
        needed: true,
        ask: |world| Box::pin(readdir(world)),
    },
    Check {
        key: "change",
        what: "The change attribute is another after every write",
        means: "It cannot tell two versions apart. The service goes by inode, time and size.",
        needed: false,
        ask: |world| Box::pin(change(world)),
    },
    Check {
        key: "reply_cache",
        what: "A call whose answer is lost with the connection is answered again, and done once",
        means: "After a lost connection the service says 504 Uncertain of the writes that were under way.",
        needed: false,
        ask: |world| Box::pin(reply_cache(world)),
    },
    Check {
        key: "session_survives",
        what: "A session survives its connection: what was open stays open",
        means: "A lost connection ends what was open or locked: uploads and appends under way fail.",
        needed: false,
        ask: |world| Box::pin(session_survives(world)),
    },
    Check {
        key: "idle",
        what: "The lease is renewed: what is open stays open in silence",
        means: "Uploads that pause for longer than the lease fail.",
        needed: false,
        ask: |world| Box::pin(idle(world)),
    },
    Check {
        key: "visible_connections",
        what: "Two connections to one host see each other's writes at once",
        means: "A write that the service has acknowledged may not be seen by the next read.",
        needed: true,
        ask: |world| Box::pin(visible_connections(world)),
    },
    Check {
        key: "visible_hosts",
        what: "The hosts see each other's writes at once",
        means: "Paths must not move between mount targets while they are written: after a change of the list, a read \
                may see what was before.",
        needed: true,
        ask: |world| Box::pin(visible_hosts(world)),
    },
];

/// The hosts that have given a session, and a directory of the probe's own.
pub struct World {
    setup: Arc<Setup>,
    targets: Vec<Arc<Target>>,
    name: String,
    /// Whether it may be there.
    begun: AtomicBool,
    made: AtomicBool,
    refused: OnceLock<bool>,
    first: OnceLock<Client>,
    second: OnceLock<Client>,
}

impl Patient for World {
    fn patience(&self) -> Duration {
        self.setup.timeout
    }
}

impl World {
    pub fn new(setup: &Arc<Setup>, targets: &[Arc<Target>]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (now, std::process::id()));
        Self {
            setup: Arc::clone(setup),
            targets: targets.to_vec(),
            name: format!(".efs-autoscale-probe-{random:016x}"),
            begun: AtomicBool::default(),
            made: AtomicBool::default(),
            refused: OnceLock::new(),
            first: OnceLock::new(),
            second: OnceLock::new(),
        }
    }

    /// The whole path of what it makes.
    pub fn directory(&self) -> String {
        format!("{}/{}", self.setup.options.root.trim_end_matches('/'), self.name)
    }

    /// As the report has it.
    pub fn title(&self) -> String {
        let place = match self.setup.options.read_only {
            true => format!("reading {}", self.setup.options.root),
            false => format!("in {}", self.directory()),
        };
        match self.hosts()[..] {
            [] => "No host has given a session".to_owned(),
            [only] => format!("At {only}, {place}"),
            [first, second, ..] => format!("At {first} and {second}, {place}"),
        }
    }

    /// Those with a session.
    fn hosts(&self) -> Vec<SocketAddr> {
        self.targets.iter().filter_map(|target| target.usable()).collect()
    }

    fn host(&self) -> Result<SocketAddr, Outcome> {
        self.hosts().first().copied().ok_or_else(|| not_asked("no host has given a session"))
    }

    /// A client of its own, with the probe's directory as its root.
    fn another(&self, address: SocketAddr) -> Result<Client, Outcome> {
        let options = self.setup.client_options(address, self.directory().into_bytes());
        Client::new(options).map_err(|why| unknown(why.to_string()))
    }

    /// Nothing of its own can be read.
    fn only_reads(&self) -> bool {
        !self.made.load(Ordering::Relaxed)
    }

    fn above(&self, address: SocketAddr) -> Result<Client, Outcome> {
        let root = self.setup.options.root.clone().into_bytes();
        Client::new(self.setup.client_options(address, root)).map_err(|why| unknown(why.to_string()))
    }

    /// If there is a directory to write to: a client that does.
    fn writer(&self) -> Result<Client, Outcome> {
        let host = self.host()?;
        match (self.setup.options.read_only, self.made.load(Ordering::Relaxed)) {
            (true, _) => Err(not_asked("nothing shall be changed (--read-only)")),
            (_, false) => Err(not_asked("there is no directory to write to")),
            _ => match self.first.get() {
                Some(client) => Ok(client.clone()),
                None => {
                    let client = self.another(host)?;
                    Ok(self.first.get_or_init(|| client).clone())
                }
            },
        }
    }

    /// Another client; at another host, where there are several.
    fn other(&self) -> Result<Client, Outcome> {
        self.writer()?;
        if let Some(client) = self.second.get() {
            return Ok(client.clone());
        }
        let hosts = self.hosts();
        let host = hosts.get(1).or(hosts.first()).copied().ok_or_else(|| not_asked("there is no host any more"))?;
        let client = self.another(host)?;
        Ok(self.second.get_or_init(|| client).clone())
    }

    /// Of the two clients.
    fn between(&self) -> &'static str {
        if self.hosts().len() > 1 { "two clients at two hosts" } else { "two clients at one host" }
    }

    /// Somebody still answers.
    pub async fn is_answering(&self) -> bool {
        let Ok(client) = self.host().and_then(|host| self.above(host)) else { return false };
        let answer = client.attributes(b"", Wanted::KIND).await;
        matches!(answer, Ok(_) | Err(Error::Status { .. }))
    }

    /// Removes what the probe has made. Done again, it finds nothing to do.
    ///
    /// # Errors
    /// Something stays, or is not known to be gone.
    pub async fn tidy(&self) -> Result<(), String> {
        // They may still be doing something.
        for client in [&self.first, &self.second].into_iter().filter_map(OnceLock::get) {
            client.close().await;
        }
        if !self.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let tidied = async {
            let mut why = "there is no host any more".to_owned();
            for host in self.hosts() {
                match self.tidy_at(host).await {
                    Ok(()) => return Ok(()),
                    Err(found) => why = found,
                }
            }
            Err(why)
        };
        let patience = self.setup.timeout * 2;
        let tidied = timeout(patience, tidied).await;
        tidied.unwrap_or_else(|_| Err(format!("no answer came within {patience:?}")))
    }

    async fn tidy_at(&self, host: SocketAddr) -> Result<(), String> {
        /// What was on its way when this began may come after the first look.
        const TRIES: usize = 20;
        let client = self.above(host).map_err(|outcome| outcome.found)?;
        let mut why = String::new();
        for _ in 0..TRIES {
            match self.tidy_once(&client).await {
                Ok(()) => {
                    client.close().await;
                    return Ok(());
                }
                Err(found) if matches!(found.status(), Some(Status::NOTEMPTY | Status::EXIST)) => {
                    why = found.to_string();
                    sleep(Duration::from_millis(50)).await;
                }
                Err(found) => return Err(found.to_string()),
            }
        }
        Err(why)
    }

    async fn tidy_once(&self, client: &Client) -> nfs41::Result<()> {
        let gone = |answer: nfs41::Result<()>| match answer {
            Err(Error::Status { status: Status::NOENT, .. }) => Ok(()),
            other => other,
        };
        loop {
            // From the beginning each time: what was listed is gone then.
            let page = match client.list(self.name.as_bytes(), Place::default(), Wanted::NOTHING, 1 << 16).await {
                Ok(page) => page,
                Err(Error::Status { status: Status::NOENT, .. }) => return Ok(()),
                Err(why) => return Err(why),
            };
            for entry in &page.entries {
                gone(client.remove(&[self.name.as_bytes(), b"/", &entry.name].concat()).await)?;
            }
            if page.end {
                break;
            }
        }
        gone(client.remove(self.name.as_bytes()).await)
    }
}

fn content(length: usize, seed: usize) -> Bytes {
    (0..length).map(|at| (at * 7 + at / 251 + seed) as u8).collect::<Vec<_>>().into()
}

async fn one_server(world: &World) -> Asked {
    let servers: Vec<_> = world.targets.iter().filter_map(|target| target.server()).collect();
    let [first, rest @ ..] = &servers[..] else { return Err(not_asked("no host has given a session")) };
    if rest.is_empty() {
        return Err(not_asked("it takes several HOSTs"));
    }
    let kinds: HashSet<_> = servers.iter().map(|server| (&server.owner, &server.scope)).collect();
    let values = json!({ "hosts": servers.len(), "servers": kinds.len() });
    let outcome = match rest.iter().all(|other| (&other.owner, &other.scope) == (&first.owner, &first.scope)) {
        true => yes(format!(
            "{} hosts name one owner and scope: Linux folds mounts of them into one connection",
            servers.len()
        )),
        false => no(format!("{} hosts name {} servers", servers.len(), kinds.len())),
    };
    Ok(outcome.with(values))
}

async fn directory(world: &World) -> Asked {
    let host = world.host()?;
    if world.setup.options.read_only {
        return Err(not_asked("nothing shall be changed (--read-only)"));
    }
    let client = world.above(host)?;
    world.begun.store(true, Ordering::Relaxed);
    let made = client.make_directory(world.name.as_bytes(), 0o700).await;
    client.close().await;
    if matches!(made, Ok(()) | Err(Error::Status { .. })) {
        let _ = world.refused.set(made.is_err());
    }
    answered(made)?;
    world.made.store(true, Ordering::Relaxed);
    Ok(yes(world.directory()))
}

async fn access_agrees(world: &World) -> Asked {
    const CHANGE: u32 = 4;
    const ADD: u32 = 8;
    world.host()?;
    if world.setup.options.read_only {
        return Err(not_asked("nothing shall be changed (--read-only)"));
    }
    let said = world.targets.iter().find(|target| target.usable().is_some()).and_then(|target| target.access());
    let (Some(said), Some(refused)) = (said, world.refused.get().copied()) else {
        return Err(unknown("either ACCESS or making a directory was not answered"));
    };
    let allowed = said & (CHANGE | ADD) == CHANGE | ADD;
    let found = format!(
        "it says {}, and a directory {}",
        permissions(said).join(", "),
        if refused { "is refused" } else { "is made" }
    );
    if allowed != refused { Ok(yes(found)) } else { Err(no(found)) }
}

async fn owner(world: &World) -> Asked {
    let client = world.writer()?;
    prepared(client.put(b"owner", Bytes::new(), Put::default()).await)?;
    let found = answered(client.attributes(b"owner", Wanted::OWNER | Wanted::GROUP).await)?;
    let text = |name: Option<Box<[u8]>>| name.map(|name| String::from_utf8_lossy(&name).into_owned());
    let (user, group) = (text(found.owner), text(found.group));
    let own = nfs41::Credentials::default();
    let told = format!(
        "asked as {}:{}, it is {}:{}",
        own.user,
        own.group,
        user.as_deref().unwrap_or("?"),
        group.as_deref().unwrap_or("?")
    );
    let values = json!({ "asked": [own.user, own.group], "user": user, "group": group });
    let Some(user) = user else { return Err(unknown("the server does not say whose it is")) };
    // A server may give a name with a domain instead of the number, which says nothing.
    let outcome = match user.parse::<u32>() {
        Ok(number) if number == own.user => Ok(yes(told)),
        Ok(_) => Ok(no(told)),
        Err(_) => Err(unknown(told)),
    };
    both(outcome, values)
}

/// A client and a plain file that it can read; and what is in it, where that is known.
async fn readable(world: &World) -> Result<(Client, Vec<u8>, Option<Bytes>), Outcome> {
    /// Pages of a directory that somebody else has filled.
    const PAGES: usize = 5;
    let host = world.host()?;
    if !world.only_reads() {
        let (client, expected) = (world.writer()?, content(4096, 1));
        prepared(client.put(b"read", expected.clone(), Put::default()).await)?;
        return Ok((client, b"read".to_vec(), Some(expected)));
    }
    let client = world.above(host)?;
    let mut place = Place::default();
    for _ in 0..PAGES {
        let page = prepared(client.list(b"", place, Wanted::KIND, 1 << 16).await)?;
        if let Some(file) = page.entries.iter().find(|entry| entry.attributes.kind == Some(Kind::File)) {
            return Ok((client, file.name.to_vec(), None));
        }
        if page.end {
            break;
        }
        place = page.at;
    }
    Err(unknown("there is no plain file in the root to read"))
}

fn read_says(read: nfs41::Content, expected: Option<Bytes>) -> Asked {
    match expected {
        Some(expected) if read.data != expected => Err(no("what is read is not what was written")),
        _ => Ok(yes(format!("{} bytes", grouped(read.data.len() as u64)))),
    }
}

async fn read_anonymous(world: &World) -> Asked {
    let (client, path, expected) = readable(world).await?;
    read_says(answered(client.read_without_opening(&path, 0, 4096).await)?, expected)
}

async fn read_opened(world: &World) -> Asked {
    let (_, path, expected) = readable(world).await?;
    let host = world.host()?;
    let client = if world.only_reads() { world.above(host)? } else { world.another(host)? };
    client.opening_to_read();
    let read = client.read(&path, 0, 4096).await;
    client.close().await;
    read_says(answered(read)?, expected)
}

async fn put_one_call(world: &World) -> Asked {
    let client = world.writer()?;
    let expected = content(5000, 2);
    answered(client.put_in_one_call(b"put", expected.clone(), Put::default()).await)?;
    let read = prepared(client.read(b"put", 0, 8192).await)?;
    if read.data == expected { Ok(yes("5,000 bytes, there and whole")) } else { Err(no("it is not what was put")) }
}

async fn put_fall_back(world: &World) -> Asked {
    world.writer()?;
    let client = world.another(world.host()?)?;
    client.without_current_stateid();
    let expected = content(5000, 3);
    let put = client.put(b"put plainly", expected.clone(), Put::default()).await;
    let read = client.read(b"put plainly", 0, 8192).await;
    client.close().await;
    answered(put)?;
    if prepared(read)?.data == expected {
        Ok(yes("5,000 bytes, there and whole"))
    } else {
        Err(no("it is not what was put"))
    }
}

async fn pieces(world: &World) -> Asked {
    let client = world.writer()?;
    let largest = prepared(client.file_system().await)?.largest_write as usize;
    let expected = content(2 * largest + 1, 4);
    let mut staged = answered(client.stage(b"pieces", Put::default()).await)?;
    answered(staged.write(expected.clone()).await)?;
    answered(staged.commit().await)?;
    let read = prepared(client.read_all(b"pieces", 0, u64::MAX).await)?.concat();
    match read == expected {
        true => Ok(yes(format!("{} bytes", grouped(expected.len() as u64)))),
        false => Err(no(format!("{} bytes come back, and they are others", grouped(read.len() as u64)))),
    }
}

async fn times(world: &World) -> Asked {
    let client = world.writer()?;
    prepared(client.put(b"times", Bytes::new(), Put::default()).await)?;
    let wanted = Time { seconds: 1_700_000_001, nanoseconds: 123_456_789 };
    answered(client.set_attributes(b"times", Set::modified(wanted)).await)?;
    let found = prepared(client.attributes(b"times", Wanted::MODIFIED).await)?.modified;
    let told = |time: Time| format!("{}.{:09}", time.seconds, time.nanoseconds);
    let values = json!({ "set": told(wanted), "kept": found.map(told) });
    match found {
        Some(found) if found == wanted => Ok(yes(told(found)).with(values)),
        Some(found) => Err(no(format!("{} was set, {} is kept", told(wanted), told(found))).with(values)),
        None => Err(unknown("the server does not say when it changed")),
    }
}

async fn create_guarded(world: &World) -> Asked {
    let client = world.writer()?;
    answered(client.write(b"guarded", 0, "one".into(), Create::New(0o600)).await)?;
    match client.write(b"guarded", 0, "two".into(), Create::New(0o600)).await {
        Err(why) if why.status() == Some(Status::EXIST) => Ok(yes(why.to_string())),
        Ok(_) => Err(no("a second one is made, too")),
        Err(why) => Err(refused(why)),
    }
}

async fn create_exclusive(world: &World) -> Asked {
    let client = world.writer()?;
    let create = async |number| client.open_file(b"exclusive", Create::Exclusive(number, 0o600)).await;
    let first = answered(create(7).await)?;
    let again = create(7).await;
    let other = create(8).await;
    let is_known = again.is_ok();
    for file in [Ok(first), again].into_iter().flatten() {
        let _ = file.close().await;
    }
    match (is_known, other) {
        (false, _) => Err(no("its own number is refused the second time")),
        (_, Err(why)) if why.status() == Some(Status::EXIST) => Ok(yes("the same number again is the same file")),
        (_, Err(why)) => Err(unknown(why.to_string())),
        (_, Ok(file)) => {
            let _ = file.close().await;
            Err(no("another number opens the same file"))
        }
    }
}

async fn link(world: &World) -> Asked {
    let client = world.writer()?;
    prepared(client.put(b"linked", "content".into(), Put::default()).await)?;
    answered(client.link(b"linked", b"second name").await)?;
    let links = prepared(client.attributes(b"second name", Wanted::LINKS).await)?.links;
    let again = client.link(b"linked", b"second name").await;
    match again {
        Err(why) if why.status() == Some(Status::EXIST) => match links {
            Some(2) => Ok(yes("2 links")),
            other => Err(no(format!("it is made, but the file has {other:?} links"))),
        },
        Ok(()) => Err(no("a name that is taken is taken again")),
        Err(why) => Err(unknown(why.to_string())),
    }
}

async fn rename_over_open(world: &World) -> Asked {
    let (client, other) = (world.writer()?, world.other()?);
    prepared(client.put(b"open", "old".into(), Put::default()).await)?;
    prepared(client.put(b"to come", "new".into(), Put::default()).await)?;
    let file = prepared(client.open_file(b"open", Create::No).await)?;
    let renamed = other.rename(b"to come", b"open").await;
    let read = file.read(0, 100).await;
    let _ = file.close().await;
    answered(renamed)?;
    let by_name = prepared(other.read(b"open", 0, 100).await)?;
    if &by_name.data[..] != b"new" {
        return Err(no("it is said to be done, and the name has the old content"));
    }
    let (word, told) = held(read);
    Ok(yes(format!("done; the file that is open {told}")).with(json!({ "open_file": word })))
}

/// What reading a file says that has no name any more.
fn held(read: nfs41::Result<(Bytes, bool)>) -> (&'static str, String) {
    match read {
        Ok((data, _)) if &data[..] == b"old" => ("content", "still reads its own content".to_owned()),
        Ok((data, _)) if &data[..] == b"new" => ("other", "reads the new file's content".to_owned()),
        Ok(_) => ("other", "reads something else".to_owned()),
        Err(why) if why.status() == Some(Status::STALE) => ("stale", format!("is gone ({why})")),
        Err(why) => ("unknown", format!("is not read: {why}")),
    }
}

fn held_says(read: nfs41::Result<(Bytes, bool)>) -> Asked {
    let (word, told) = held(read);
    let outcome = match word {
        "content" => Ok(yes(format!("it {told}"))),
        "unknown" => Err(unknown(format!("it {told}"))),
        _ => Err(no(format!("it {told}"))),
    };
    let values = json!({ "file": word });
    both(outcome, values)
}

async fn hold_replaced(world: &World) -> Asked {
    let (client, other) = (world.writer()?, world.other()?);
    prepared(client.put(b"held", "old".into(), Put::default()).await)?;
    let found = prepared(client.read(b"held", 0, 1).await)?;
    let file = answered(client.hold_to_read(&found.handle).await)?;
    let replaced = other.put(b"held", "new".into(), Put::default()).await;
    let read = file.read(0, 100).await;
    let _ = file.close().await;
    prepared(replaced)?;
    held_says(read)
}

async fn read_on_replaced(world: &World) -> Asked {
    let (client, other) = (world.writer()?, world.other()?);
    prepared(client.put(b"read on", "old".into(), Put::default()).await)?;
    let found = prepared(client.read(b"read on", 0, 1).await)?;
    prepared(other.put(b"read on", "new".into(), Put::default()).await)?;
    held_says(client.read_on(&found.handle, 0, 100).await)
}

async fn lock(world: &World) -> Asked {
    let (client, other) = (world.writer()?, world.other()?);
    prepared(client.put(b"lock", "content".into(), Put::default()).await)?;
    let file = prepared(client.open_file(b"lock", Create::No).await)?;
    let others = prepared(other.open_file(b"lock", Create::No).await)?;
    let mine = file.lock(Instant::now()).await;
    let denied = others.lock(Instant::now()).await;
    let closed = file.close().await;
    let after = others.lock(Instant::now()).await;
    let _ = others.close().await;
    answered(mine)?;
    match denied {
        Err(why) if why.status() == Some(Status::DENIED) => {}
        Ok(()) => return Err(no(format!("{} have it at the same time", world.between()))),
        Err(why) => return Err(unknown(why.to_string())),
    }
    match closed.and(after) {
        Ok(()) => Ok(yes(format!("{}; it is free when the file is closed", world.between()))),
        Err(why) => Err(no(format!("it is not free when the file is unlocked and closed: {why}"))),
    }
}

async fn append(world: &World) -> Asked {
    let clients = [world.writer()?, world.other()?];
    prepared(clients[0].put(b"log", Bytes::new(), Put::default()).await)?;
    let add = async |index: usize| {
        for round in 0..ROUNDS {
            let line = format!("{index} {round}\n");
            if answered(clients[index].append(b"log", line.into(), Put::default()).await)?.is_none() {
                return Err(no("the file that was made is not there"));
            }
        }
        Ok(())
    };
    let (one, two) = tokio::join!(add(0), add(1));
    one.and(two)?;
    let log = prepared(clients[0].read(b"log", 0, 1 << 16).await)?.data;
    let mut lines: Vec<_> = String::from_utf8_lossy(&log).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    let mut expected: Vec<_> =
        (0..2).flat_map(|index| (0..ROUNDS).map(move |round| format!("{index} {round}"))).collect();
    expected.sort_unstable();
    match lines == expected {
        true => Ok(yes(format!("{} of {}", expected.len(), world.between()))),
        false => Err(no(format!("{} were made, {} lines are there, or they are mixed", expected.len(), lines.len()))),
    }
}

async fn readdir(world: &World) -> Asked {
    const ENTRIES: usize = 60;
    /// Of a directory that somebody else has filled.
    const MOST_PAGES: usize = 20;
    const PAGE: u32 = 4 << 10;
    let host = world.host()?;
    let own = !world.only_reads();
    let client = if own { world.writer()? } else { world.above(host)? };
    let mut expected = HashSet::new();
    for number in 0..if own { ENTRIES } else { 0 } {
        // Long names: fewer of them in a page.
        let name = format!("entry {number:0>100}");
        prepared(client.write(name.as_bytes(), 0, Bytes::new(), Create::IfMissing(0o600)).await)?;
        expected.insert(Bytes::from(name));
    }
    let (mut place, mut seen, mut pages, mut verifier, mut highest) = (Place::default(), Vec::new(), 0, false, 0);
    let mut ended = false;
    while !ended && (own || pages < MOST_PAGES) {
        let page = answered(client.list(b"", place, Wanted::USUAL, PAGE).await)?;
        pages += 1;
        verifier |= page.has_verifier();
        highest = page.entries.iter().map(|entry| entry.cookie).fold(highest, u64::max);
        if let (true, 1, Some(last)) = (own, pages, page.entries.last()) {
            prepared(client.remove(&last.name).await)?;
        }
        (place, ended) = (page.at, page.end);
        seen.extend(page.entries.into_iter().map(|entry| entry.name));
    }
    let once: HashSet<_> = seen.iter().cloned().collect();
    let missing = expected.difference(&once).count();
    let bits = u64::BITS - highest.leading_zeros();
    let found = format!(
        "entries {}, pages {pages}, cookies of up to {bits} bits, {} verifier",
        grouped(seen.len() as u64),
        if verifier { "with a" } else { "without a" }
    );
    let values = json!({ "entries": seen.len(), "pages": pages, "cookie_bits": bits, "verifier": verifier });
    let outcome = match (missing, seen.len() - once.len()) {
        (0, 0) if pages > 1 && own => Ok(yes(found)),
        (0, 0) if pages > 1 => Ok(yes(format!("{found}; nothing was removed"))),
        (0, 0) if own => Err(unknown(format!("one page has all: {found}"))),
        (0, 0) => Err(not_asked(format!("one page has all that is in the root: {found}"))),
        (missing, twice) => Err(no(format!("{missing} are missing, {twice} came twice: {found}"))),
    };
    both(outcome, values)
}

async fn change(world: &World) -> Asked {
    let client = world.writer()?;
    prepared(client.put(b"change", "0".into(), Put::default()).await)?;
    let mut numbers = Vec::new();
    for round in 0..=ROUNDS {
        if round > 0 {
            // Of the same length.
            prepared(client.write(b"change", 0, format!("{}", round % 10).into(), Create::No).await)?;
        }
        let found = answered(client.attributes(b"change", Wanted::CHANGE).await)?.change;
        numbers.push(found.ok_or_else(|| no("the server has none"))?);
    }
    let others: HashSet<_> = numbers.iter().collect();
    let grows = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let values = json!({ "writes": ROUNDS, "numbers": others.len(), "grows": grows });
    match others.len() == numbers.len() {
        true => Ok(yes(format!("{ROUNDS} writes, and it {}", if grows { "grows" } else { "does not always grow" }))
            .with(values)),
        false => Err(no(format!("{ROUNDS} writes gave {} numbers", others.len())).with(values)),
    }
}

/// A client whose connections can be cut.
async fn fragile(world: &World) -> Result<(Client, Pipe), Outcome> {
    world.writer()?;
    let pipe = Pipe::to(world.host()?).await;
    let pipe = pipe.map_err(|why| unknown(format!("nothing can listen on this machine's loopback: {why}")))?;
    Ok((world.another(pipe.address)?, pipe))
}

async fn reply_cache(world: &World) -> Asked {
    let (client, pipe) = fragile(world).await?;
    prepared(client.put(b"once", "content".into(), Put::default()).await)?;
    pipe.swallow_the_next_answer();
    // Done twice, it finds no such file.
    let renamed = client.rename(b"once", b"moved once").await;
    let (swallowed, connections) = (pipe.has_swallowed(), pipe.connections());
    let there = world.writer()?.attributes(b"moved once", Wanted::KIND).await;
    client.close().await;
    if !swallowed || connections < 2 {
        return Err(unknown("no answer could be kept back"));
    }
    match (renamed, there) {
        (Ok(()), Ok(_)) => Ok(yes("a RENAME; the second connection brought the answer that the first one lost")),
        (Ok(()), Err(why)) => Err(no(format!("it is said to be done, and is not: {why}"))),
        (Err(why @ Error::Status { .. }), _) => Err(no(format!("it was done again: {why}"))),
        (Err(why @ Error::Uncertain(_)), Ok(_)) => Err(no(format!("it was done, and nobody says so: {why}"))),
        (Err(why), _) => Err(unknown(why.to_string())),
    }
}

async fn session_survives(world: &World) -> Asked {
    let (client, pipe) = fragile(world).await?;
    prepared(client.put(b"survivor", "content".into(), Put::default()).await)?;
    let file = prepared(client.open_file(b"survivor", Create::No).await)?;
    let before = pipe.connections();
    pipe.cut();
    let began = Instant::now();
    let read = file.read(0, 100).await;
    let (took, connections) = (began.elapsed(), pipe.connections());
    let _ = file.close().await;
    client.close().await;
    match read {
        _ if connections == before => Err(unknown("the connection could not be cut")),
        Ok((data, _)) if &data[..] == b"content" => {
            let took = super::report::time(took);
            Ok(yes(format!("a file is read on over the next connection, {took} after the cut")))
        }
        Ok(_) => Err(no("a file has another content after it")),
        Err(why @ Error::SessionLost) => Err(no(why.to_string())),
        Err(why) => Err(refused(why)),
    }
}

async fn idle(world: &World) -> Asked {
    let Some(seconds) = world.setup.options.idle else { return Err(not_asked("it takes --idle SECONDS")) };
    world.writer()?;
    let client = world.another(world.host()?)?;
    prepared(client.put(b"idle", "content".into(), Put::default()).await)?;
    let file = prepared(client.open_file(b"idle", Create::No).await)?;
    let lease = prepared(client.file_system().await)?.lease.as_secs();
    sleep(Duration::from_secs(seconds)).await;
    let read = file.read(0, 100).await;
    let _ = file.close().await;
    client.close().await;
    match read {
        Ok(_) if seconds > lease => Ok(yes(format!("{seconds} s, with a lease of {lease} s"))),
        Ok(_) => Err(unknown(format!("{seconds} s are not longer than the lease of {lease} s"))),
        Err(why @ Error::SessionLost) => Err(no(format!("after {seconds} s: {why}"))),
        Err(why) => Err(refused(why)),
    }
}

/// One writes, the other reads, and the other way round: so often the old content was seen, and how long until the new
/// one was.
async fn sees(one: &Client, two: &Client, name: &str) -> Result<(usize, Duration), Outcome> {
    let (mut late, mut longest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let (writer, reader) = if round % 2 == 0 { (one, two) } else { (two, one) };
        let written = format!("{name} {round}");
        // In place, and by another file of that name.
        if round < ROUNDS / 2 {
            prepared(writer.put(name.as_bytes(), written.clone().into(), Put::default()).await)?;
        } else {
            prepared(writer.write(name.as_bytes(), 0, written.clone().into(), Create::IfMissing(0o600)).await)?;
        }
        let began = Instant::now();
        let mut first = true;
        loop {
            let read = reader.read(name.as_bytes(), 0, 100).await;
            if matches!(&read, Ok(read) if read.data == written.as_bytes()) {
                break;
            }
            if let Err(why) = read
                && why.status().is_none()
            {
                return Err(unknown(why.to_string()));
            }
            late += usize::from(std::mem::take(&mut first));
            if began.elapsed() > Duration::from_secs(5) {
                return Err(no("a write is not seen within 5 s"));
            }
            sleep(Duration::from_millis(5)).await;
        }
        if !first {
            longest = longest.max(began.elapsed());
        }
    }
    Ok((late, longest))
}

fn sees_says((late, longest): (usize, Duration), rounds: usize) -> Asked {
    let values = json!({ "writes": rounds, "late": late, "longest_seconds": longest.as_secs_f64() });
    match late {
        0 => Ok(yes(format!("{rounds} writes, each was seen by the next read")).with(values)),
        late => Err(no(format!(
            "{late} of {rounds} writes were seen later, the last of them {} later",
            super::report::time(longest)
        ))
        .with(values)),
    }
}

async fn visible_connections(world: &World) -> Asked {
    let client = world.writer()?;
    let second = world.another(world.host()?)?;
    let seen = sees(&client, &second, "connections").await;
    second.close().await;
    sees_says(seen?, ROUNDS)
}

async fn visible_hosts(world: &World) -> Asked {
    let client = world.writer()?;
    let hosts = world.hosts();
    if hosts.len() < 2 {
        return Err(not_asked("it takes several HOSTs that answer"));
    }
    let (mut late, mut longest) = (0, Duration::ZERO);
    for (index, host) in hosts.iter().enumerate().skip(1) {
        let other = world.another(*host)?;
        let seen = sees(&client, &other, &format!("host {index}")).await;
        other.close().await;
        let (found, took) = seen?;
        (late, longest) = (late + found, longest.max(took));
    }
    sees_says((late, longest), ROUNDS * (hosts.len() - 1))
}
