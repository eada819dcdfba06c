//! Checks of a session whose connection is lost, or that is idle.

use std::time::Duration;

use nfs41::{AttributeMask, Client, Create, Error, PutOptions};
use tokio::time::{Instant, sleep};

use crate::{
    outcome::{CheckResult, Outcome, error_outcome, excluded, format_time, no, or_unknown, unknown, yes},
    pipe::Pipe,
    world::World,
};

/// A client behind a [`Pipe`].
async fn piped_client(world: &World) -> Result<(Client, Pipe), Outcome> {
    world.writer()?;
    let pipe = Pipe::to(world.host()?).await;
    let pipe = pipe.map_err(|err| unknown(format!("cannot listen on loopback: {err}")))?;
    Ok((world.new_client(pipe.address)?, pipe))
}

pub async fn reply_cache(world: &World) -> CheckResult {
    let (client, pipe) = piped_client(world).await?;
    or_unknown(client.put(b"once", "content".into(), PutOptions::default()).await)?;
    pipe.drop_next_reply();
    // A second execution would fail with NOENT.
    let renamed = client.rename(b"once", b"moved once").await;
    let (dropped, connections) = (pipe.has_dropped_reply(), pipe.connections());
    let exists = world.writer()?.attributes(b"moved once", AttributeMask::TYPE).await;
    client.close().await;
    if !dropped || connections < 2 {
        return Err(unknown("no reply could be dropped"));
    }
    match (renamed, exists) {
        (Ok(()), Ok(_)) => Ok(yes("a RENAME; the second connection returned the reply that the first one lost")),
        (Ok(()), Err(err)) => Err(no(format!("RENAME reported success, but did not happen: {err}"))),
        (Err(err @ Error::Status { .. }), _) => Err(no(format!("RENAME was executed again: {err}"))),
        (Err(err @ Error::Uncertain(_)), Ok(_)) => {
            Err(no(format!("RENAME happened, but its outcome was not reported: {err}")))
        }
        (Err(err), _) => Err(unknown(err.to_string())),
    }
}

pub async fn session_survives(world: &World) -> CheckResult {
    let (client, pipe) = piped_client(world).await?;
    or_unknown(client.put(b"survivor", "content".into(), PutOptions::default()).await)?;
    let file = or_unknown(client.open_file(b"survivor", Create::Never).await)?;
    let before = pipe.connections();
    pipe.cut();
    let began = Instant::now();
    let read = file.read(0, 100).await;
    let (elapsed, connections) = (began.elapsed(), pipe.connections());
    let _ = file.close().await;
    client.close().await;
    match read {
        _ if connections == before => Err(unknown("the connection could not be cut")),
        Ok((data, _)) if &data[..] == b"content" => {
            let elapsed = format_time(elapsed);
            Ok(yes(format!("a file is read over the next connection, {elapsed} after the cut")))
        }
        Ok(_) => Err(no("the file has other content afterwards")),
        Err(err @ Error::SessionLost) => Err(no(err.to_string())),
        Err(err) => Err(error_outcome(err)),
    }
}

pub async fn idle(world: &World) -> CheckResult {
    let Some(seconds) = world.setup.options.idle else { return Err(excluded("needs --idle SECONDS")) };
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
        Ok(_) if seconds > lease => Ok(yes(format!("after a pause of {seconds} s, with a lease of {lease} s"))),
        Ok(_) => Err(unknown(format!("a pause of {seconds} s is not longer than the lease of {lease} s"))),
        Err(err @ Error::SessionLost) => Err(no(format!("after {seconds} s: {err}"))),
        Err(err) => Err(error_outcome(err)),
    }
}
