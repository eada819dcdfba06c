//! What is asked in a directory of the probe's own: one small function for each fact, in the order of the report. What
//! the service needs is asked by way of each host, the rest of the first one.

mod clients;
mod directory;
mod reads;
mod sessions;
mod writes;

use bytes::Bytes;
use nfs41::Client;

use super::{outcome::Check, world::World};

/// How often what could be chance is done.
const ROUNDS: usize = 10;

pub const CHECKS: &[Check<World>] = &[
    Check {
        key: "one_server",
        what: "All hosts are one server (owner and scope)",
        means: "They are several servers: Linux keeps a connection for each mount. The NFS client of the service does \
                so in any case.",
        needed: false,
        ask: |world| Box::pin(clients::one_server(world)),
    },
    Check {
        key: "shared_sessions",
        what: "A session that was made at one host is known at the others",
        means: "A change that hangs on its way to one mount target cannot be stopped by way of another: the service \
                answers 504 Pending where it would answer 504 Deadline, and the change may still happen.",
        needed: false,
        ask: |world| Box::pin(clients::shared_sessions(world)),
    },
    Check {
        key: "directory",
        what: "A directory is made below the root",
        means: "Nothing can be written here: a policy without ClientWrite, a root that is squashed, permissions of the \
                directory, or a file system that is a replica. The service can only read.",
        needed: true,
        ask: |world| Box::pin(directory::directory(world)),
    },
    Check {
        key: "access_agrees",
        what: "ACCESS says beforehand whether it can be written",
        means: "ACCESS cannot be relied on to find out what a policy forbids: only a try shows it.",
        needed: false,
        ask: |world| Box::pin(directory::access_agrees(world)),
    },
    Check {
        key: "owner",
        what: "What is made belongs to the user that this runs as",
        means: "The server maps users: an access point with a user of its own, or a squashed root. Permissions are \
                judged for that user.",
        needed: false,
        ask: |world| Box::pin(directory::owner(world)),
    },
    Check {
        key: "read_anonymous",
        what: "READ takes the anonymous stateid (a read in one round trip, nothing opened)",
        means: "Every read opens and closes the file, in the same round trip where the next but one line says yes.",
        needed: false,
        ask: |world| Box::pin(reads::read_anonymous(world)),
    },
    Check {
        key: "read_opened",
        what: "READ of a file that is opened for it works (the way out where the anonymous stateid is refused)",
        means: "If the line before says no, too, nothing can be read.",
        needed: true,
        ask: |world| Box::pin(reads::read_opened(world)),
    },
    Check {
        key: "put_one_call",
        what: "OPEN, WRITE, CLOSE and RENAME go in one compound by the current stateid (a whole put in one round trip)",
        means: "A put takes four round trips instead of one. The client finds out by itself and goes on.",
        needed: false,
        ask: |world| Box::pin(writes::put_one_call(world)),
    },
    Check {
        key: "put_fall_back",
        what: "A put works without the current stateid (the way out where it is refused)",
        means: "If the line before says no, too, nothing can be written.",
        needed: true,
        ask: |world| Box::pin(writes::put_fall_back(world)),
    },
    Check {
        key: "pieces",
        what: "A content of several calls is written, committed, and read back the same",
        means: "Files larger than one call cannot be written.",
        needed: true,
        ask: |world| Box::pin(writes::pieces(world)),
    },
    Check {
        key: "times",
        what: "SETATTR keeps times to the nanosecond",
        means: "Two versions of a file may have the same tag: If-Match and If-None-Match of the service cannot be \
                relied on.",
        needed: true,
        ask: |world| Box::pin(writes::times(world)),
    },
    Check {
        key: "create_guarded",
        what: "A GUARDED create makes a new file and refuses one that is there",
        means: "The service does not use it; a client that opens with Create::Guarded cannot.",
        needed: false,
        ask: |world| Box::pin(writes::create_guarded(world)),
    },
    Check {
        key: "link",
        what: "LINK gives a second name, and refuses one that is taken",
        means: "If-None-Match: * of the service fails, and conditional replaces do.",
        needed: true,
        ask: |world| Box::pin(writes::link(world)),
    },
    Check {
        key: "put_conditional",
        what: "A put on a condition is done where it holds, and changes nothing where it does not",
        means: "If-Match, If-Unmodified-Since and If-None-Match: * of the service cannot be relied on.",
        needed: true,
        ask: |world| Box::pin(writes::put_conditional(world)),
    },
    Check {
        key: "remove",
        what: "REMOVE takes a file away, and says so of one that is not there",
        means: "DELETE of the service fails, and temporary files stay.",
        needed: true,
        ask: |world| Box::pin(writes::remove(world)),
    },
    Check {
        key: "rename_over_open",
        what: "RENAME replaces a file that is open",
        means: "Files that somebody reads cannot be replaced meanwhile.",
        needed: true,
        ask: |world| Box::pin(writes::rename_over_open(world)),
    },
    Check {
        key: "hold_replaced",
        what: "A file that is opened by CLAIM_FH and then replaced is still read to its end",
        means: "A long download breaks off when the file is replaced meanwhile.",
        needed: false,
        ask: |world| Box::pin(reads::hold_replaced(world)),
    },
    Check {
        key: "read_on_replaced",
        what: "A file that is replaced is still read without being open, by its handle",
        means: "It is as the protocol lets it be: the client opens what it reads for long.",
        needed: false,
        ask: |world| Box::pin(reads::read_on_replaced(world)),
    },
    Check {
        key: "lock",
        what: "LOCK locks a whole file, and whoever else asks then is DENIED",
        means: "Appends, If-Match and If-Unmodified-Since of two tasks may overtake each other.",
        needed: true,
        ask: |world| Box::pin(clients::lock(world)),
    },
    Check {
        key: "append",
        what: "Appends of two clients are all there, each whole",
        means: "POST ?append loses content.",
        needed: true,
        ask: |world| Box::pin(clients::append(world)),
    },
    Check {
        key: "readdir",
        what: "READDIR gives each entry once, page by page, also when the one it stopped at is removed",
        means: "Listings miss entries or repeat them.",
        needed: true,
        ask: |world| Box::pin(reads::readdir(world)),
    },
    Check {
        key: "change",
        what: "The change attribute is another after every write",
        means: "It cannot tell two versions apart. The service goes by inode, time and size.",
        needed: false,
        ask: |world| Box::pin(writes::change(world)),
    },
    Check {
        key: "reply_cache",
        what: "A call whose answer is lost with the connection is answered again, and done once",
        means: "After a lost connection the service says 504 Uncertain of the writes that were under way.",
        needed: false,
        ask: |world| Box::pin(sessions::reply_cache(world)),
    },
    Check {
        key: "session_survives",
        what: "A session survives its connection: what was open stays open",
        means: "A lost connection ends what was open or locked: uploads and appends under way fail.",
        needed: false,
        ask: |world| Box::pin(sessions::session_survives(world)),
    },
    Check {
        key: "idle",
        what: "The lease is renewed: what is open stays open in silence",
        means: "Uploads that pause for longer than the lease fail.",
        needed: false,
        ask: |world| Box::pin(sessions::idle(world)),
    },
    Check {
        key: "visible_connections",
        what: "Two connections to one host see each other's writes at once",
        means: "A write that the service has acknowledged may not be seen by the next read.",
        needed: true,
        ask: |world| Box::pin(clients::visible_connections(world)),
    },
    Check {
        key: "visible_hosts",
        what: "The hosts see each other's writes at once",
        means: "Paths must not move between mount targets while they are written: after a change of the list, a read \
                may see what was before.",
        needed: true,
        ask: |world| Box::pin(clients::visible_hosts(world)),
    },
];

/// So many bytes, of which no two places near each other are mixed up.
/// Reads a file of any size.
async fn read_file(client: &Client, path: &[u8]) -> nfs41::Result<Bytes> {
    let mut read = client.read(path, 0, u32::MAX).await?;
    let mut data = std::mem::take(&mut read.data).to_vec();
    while !read.eof {
        read = client.read(path, data.len() as u64, u32::MAX).await?;
        data.extend_from_slice(&read.data);
    }
    Ok(data.into())
}

fn content(length: usize, seed: usize) -> Bytes {
    (0..length).map(|at| (at * 7 + at / 251 + seed) as u8).collect::<Vec<_>>().into()
}
