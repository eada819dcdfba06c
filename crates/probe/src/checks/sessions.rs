//! What is left of a session when its connection is lost, or when nobody says anything.

use std::time::Duration;

use nfs41::{AttributeMask, Client, Create, Error, PutOptions};
use tokio::time::{Instant, sleep};

use crate::{
    outcome::{CheckResult, Outcome, excluded, no, or_unknown, refused, time, unknown, yes},
    pipe::Pipe,
    world::World,
};

/// A client whose connections can be cut.
async fn fragile(world: &World) -> Result<(Client, Pipe), Outcome> {
    world.writer()?;
    let pipe = Pipe::to(world.host()?).await;
    let pipe = pipe.map_err(|err| unknown(format!("nothing can listen on this machine's loopback: {err}")))?;
    Ok((world.new_client(pipe.address)?, pipe))
}

pub async fn reply_cache(world: &World) -> CheckResult {
    let (client, pipe) = fragile(world).await?;
    or_unknown(client.put(b"once", "content".into(), PutOptions::default()).await)?;
    pipe.drop_next_reply();
    // Done twice, it finds no such file.
    let renamed = client.rename(b"once", b"moved once").await;
    let (swallowed, connections) = (pipe.has_dropped_reply(), pipe.connections());
    let there = world.writer()?.attributes(b"moved once", AttributeMask::TYPE).await;
    client.close().await;
    if !swallowed || connections < 2 {
        return Err(unknown("no answer could be kept back"));
    }
    match (renamed, there) {
        (Ok(()), Ok(_)) => Ok(yes("a RENAME; the second connection brought the answer that the first one lost")),
        (Ok(()), Err(err)) => Err(no(format!("it is said to be done, and is not: {err}"))),
        (Err(err @ Error::Status { .. }), _) => Err(no(format!("it was done again: {err}"))),
        (Err(err @ Error::Uncertain(_)), Ok(_)) => Err(no(format!("it was done, and nobody says so: {err}"))),
        (Err(err), _) => Err(unknown(err.to_string())),
    }
}

pub async fn session_survives(world: &World) -> CheckResult {
    let (client, pipe) = fragile(world).await?;
    or_unknown(client.put(b"survivor", "content".into(), PutOptions::default()).await)?;
    let file = or_unknown(client.open_file(b"survivor", Create::Never).await)?;
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
            let took = time(took);
            Ok(yes(format!("a file is read on over the next connection, {took} after the cut")))
        }
        Ok(_) => Err(no("a file has another content after it")),
        Err(err @ Error::SessionLost) => Err(no(err.to_string())),
        Err(err) => Err(refused(err)),
    }
}

pub async fn idle(world: &World) -> CheckResult {
    let Some(seconds) = world.setup.options.idle else { return Err(excluded("it takes --idle SECONDS")) };
    world.writer()?;
    let client = world.new_client(world.host()?)?;
    or_unknown(client.put(b"idle", "content".into(), PutOptions::default()).await)?;
    let file = or_unknown(client.open_file(b"idle", Create::Never).await)?;
    let lease = or_unknown(client.limits().await)?.lease_time.as_secs();
    sleep(Duration::from_secs(seconds)).await;
    let read = file.read(0, 100).await;
    let _ = file.close().await;
    client.close().await;
    match read {
        Ok(_) if seconds > lease => Ok(yes(format!("{seconds} s, with a lease of {lease} s"))),
        Ok(_) => Err(unknown(format!("{seconds} s are not longer than the lease of {lease} s"))),
        Err(err @ Error::SessionLost) => Err(no(format!("after {seconds} s: {err}"))),
        Err(err) => Err(refused(err)),
    }
}
