//! The checks in the probe's directory, in the order of the report. Checks that the service needs run at each host, the
//! rest at the first one.

mod clients;
mod directory;
mod reads;
mod sessions;
mod writes;

use bytes::Bytes;
use nfs41::Client;

use super::{outcome::Check, world::World};

/// Repetitions of operations whose result may depend on timing.
const ROUNDS: usize = 10;

/// Key of the check that pauses for `--idle`, which extends its time limit.
pub const IDLE_KEY: &str = "idle";

pub const CHECKS: &[Check<World>] = &[
    Check {
        key: "one_server",
        what: "All hosts are one server (owner and scope)",
        means: "The hosts are several servers, so Linux keeps one connection per mount. The NFS client of the service always \
                does.",
        needed: false,
        run: |world| Box::pin(clients::one_server(world)),
    },
    Check {
        key: "shared_sessions",
        what: "A session of one host is valid at the others",
        means: "A change that hangs on its way to one mount target cannot be cancelled through another: the service \
                answers 504 Pending instead of 504 Deadline, and the change may still happen.",
        needed: false,
        run: |world| Box::pin(clients::shared_sessions(world)),
    },
    Check {
        key: "directory",
        what: "A directory can be created below the root",
        means: "Nothing can be written here, so the service can only read. Possible causes: a policy without ClientWrite, \
                root squashing, permissions of the directory, or a file system that is a replica.",
        needed: true,
        run: |world| Box::pin(directory::directory(world)),
    },
    Check {
        key: "access_agrees",
        what: "ACCESS predicts whether a write is allowed",
        means: "ACCESS does not show what a policy forbids; only an attempt does.",
        needed: false,
        run: |world| Box::pin(directory::access_agrees(world)),
    },
    Check {
        key: "owner",
        what: "New files belong to the user that this process runs as",
        means: "The server maps users: an access point with its own user, or root squashing. Permissions are checked for \
                the mapped user.",
        needed: false,
        run: |world| Box::pin(directory::owner(world)),
    },
    Check {
        key: "read_anonymous",
        what: "READ accepts the anonymous stateid (a read takes one round trip, without OPEN)",
        means: "Every read opens and closes the file; in the same round trip if the line after the next says yes.",
        needed: false,
        run: |world| Box::pin(reads::read_anonymous(world)),
    },
    Check {
        key: "read_opened",
        what: "READ of an opened file works (the fallback if the anonymous stateid is rejected)",
        means: "If the previous line also says no, nothing can be read.",
        needed: true,
        run: |world| Box::pin(reads::read_opened(world)),
    },
    Check {
        key: "put_one_call",
        what: "OPEN, WRITE, CLOSE and RENAME work in one compound with the current stateid (a put takes one round trip)",
        means: "A put takes four round trips instead of one. The client detects this and falls back.",
        needed: false,
        run: |world| Box::pin(writes::put_one_call(world)),
    },
    Check {
        key: "put_fall_back",
        what: "A put works without the current stateid (the fallback if it is rejected)",
        means: "If the previous line also says no, nothing can be written.",
        needed: true,
        run: |world| Box::pin(writes::put_fall_back(world)),
    },
    Check {
        key: "pieces",
        what: "Content of several calls is written, committed, and read back unchanged",
        means: "Files larger than one call cannot be written.",
        needed: true,
        run: |world| Box::pin(writes::pieces(world)),
    },
    Check {
        key: "times",
        what: "SETATTR keeps times with nanosecond precision",
        means: "Two versions of a file may have the same ETag: If-Match and If-None-Match of the service are \
                unreliable.",
        needed: true,
        run: |world| Box::pin(writes::times(world)),
    },
    Check {
        key: "create_guarded",
        what: "A GUARDED create creates a new file and rejects an existing one",
        means: "The service does not use it. Clients that open with Create::Guarded fail.",
        needed: false,
        run: |world| Box::pin(writes::create_guarded(world)),
    },
    Check {
        key: "link",
        what: "LINK adds a name, and rejects an existing one",
        means: "If-None-Match: * and conditional replacements of the service fail.",
        needed: true,
        run: |world| Box::pin(writes::link(world)),
    },
    Check {
        key: "put_conditional",
        what: "A conditional put replaces the file if the condition holds, and changes nothing otherwise",
        means: "If-Match, If-Unmodified-Since and If-None-Match: * of the service are unreliable.",
        needed: true,
        run: |world| Box::pin(writes::put_conditional(world)),
    },
    Check {
        key: "remove",
        what: "REMOVE removes a file, and reports one that does not exist",
        means: "DELETE of the service fails, and temporary files remain.",
        needed: true,
        run: |world| Box::pin(writes::remove(world)),
    },
    Check {
        key: "rename_over_open",
        what: "RENAME replaces an open file",
        means: "Files cannot be replaced while somebody reads them.",
        needed: true,
        run: |world| Box::pin(writes::rename_over_open(world)),
    },
    Check {
        key: "hold_replaced",
        what: "A file that is opened with CLAIM_FH and then replaced stays readable",
        means: "A long download fails if the file is replaced meanwhile.",
        needed: false,
        run: |world| Box::pin(reads::hold_replaced(world)),
    },
    Check {
        key: "read_on_replaced",
        what: "A replaced file stays readable by its handle, without OPEN",
        means: "The protocol allows this. The client opens files for long reads.",
        needed: false,
        run: |world| Box::pin(reads::read_on_replaced(world)),
    },
    Check {
        key: "lock",
        what: "LOCK locks a whole file, and a second client gets DENIED",
        means: "Appends and conditional writes (If-Match, If-Unmodified-Since) of two tasks may overwrite each other.",
        needed: true,
        run: |world| Box::pin(clients::lock(world)),
    },
    Check {
        key: "append",
        what: "Concurrent appends of two clients are complete and not interleaved",
        means: "POST ?append loses content.",
        needed: true,
        run: |world| Box::pin(clients::append(world)),
    },
    Check {
        key: "readdir",
        what: "READDIR returns each entry once, even if the last entry of a page is removed",
        means: "Listings miss or repeat entries.",
        needed: true,
        run: |world| Box::pin(reads::readdir(world)),
    },
    Check {
        key: "change",
        what: "Every write changes the change attribute",
        means: "It cannot distinguish two versions. The service uses inode, time and size instead.",
        needed: false,
        run: |world| Box::pin(writes::change(world)),
    },
    Check {
        key: "reply_cache",
        what: "A call whose reply is lost with the connection runs once, and the retry gets the reply",
        means: "After a lost connection the service answers 504 Uncertain for writes in flight.",
        needed: false,
        run: |world| Box::pin(sessions::reply_cache(world)),
    },
    Check {
        key: "session_survives",
        what: "A session survives its connection, and files stay open",
        means: "A lost connection closes files and releases locks: uploads and appends in flight fail.",
        needed: false,
        run: |world| Box::pin(sessions::session_survives(world)),
    },
    Check {
        key: IDLE_KEY,
        what: "The lease is renewed, so files stay open during a pause",
        means: "Uploads that pause for longer than the lease fail.",
        needed: false,
        run: |world| Box::pin(sessions::idle(world)),
    },
    Check {
        key: "visible_connections",
        what: "Two connections to one host see each other's writes at once",
        means: "A read may miss a write that the service has acknowledged.",
        needed: true,
        run: |world| Box::pin(clients::visible_connections(world)),
    },
    Check {
        key: "visible_hosts",
        what: "The hosts see each other's writes at once",
        means: "A path must not move to another mount target while it is written: after a change of the list, a read may \
                return the old content.",
        needed: true,
        run: |world| Box::pin(clients::visible_hosts(world)),
    },
];

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

/// Content in which misplaced or swapped parts are detected: neighboring blocks differ.
fn content(length: usize, seed: usize) -> Bytes {
    (0..length).map(|index| (index * 7 + index / 251 + seed) as u8).collect::<Vec<_>>().into()
}
