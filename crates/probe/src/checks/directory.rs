//! Whether a directory can be created, and who owns new files.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use nfs41::{AttributeMask, Error, PutOptions};
use serde_json::json;

use crate::{
    outcome::{CheckResult, excluded, no, or_no, or_unknown, unknown, with_values, yes},
    target::permissions,
    world::World,
};

pub async fn directory(world: &World) -> CheckResult {
    let host = world.host()?;
    if world.setup.options.read_only {
        return Err(excluded("--read-only is given"));
    }
    let client = world.root_client(host)?;
    world.creation_attempted.store(true, Ordering::Relaxed);
    let created = client.create_dir(world.name.as_bytes(), 0o700).await;
    client.close().await;
    if matches!(created, Ok(()) | Err(Error::Status { .. })) {
        let _ = world.refused.set(created.is_err());
    }
    or_no(created)?;
    world.created.store(true, Ordering::Relaxed);
    Ok(yes(world.directory()))
}

pub async fn access_agrees(world: &World) -> CheckResult {
    const ACCESS4_MODIFY: u32 = 4;
    const ACCESS4_EXTEND: u32 = 8;
    world.host()?;
    if world.setup.options.read_only {
        return Err(excluded("--read-only is given"));
    }
    let granted = world.targets.iter().find(|target| target.usable().is_some()).and_then(|target| target.access());
    let (Some(granted), Some(refused)) = (granted, world.refused.get().copied()) else {
        return Err(unknown("no reply to ACCESS, or to the creation of the directory"));
    };
    let allowed = granted & (ACCESS4_MODIFY | ACCESS4_EXTEND) == ACCESS4_MODIFY | ACCESS4_EXTEND;
    let found = format!(
        "ACCESS grants {}, and creating a directory {}",
        permissions(granted).join(", "),
        if refused { "is refused" } else { "succeeds" }
    );
    if allowed != refused { Ok(yes(found)) } else { Err(no(found)) }
}

pub async fn owner(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"owner", Bytes::new(), PutOptions::default()).await)?;
    let found = or_no(client.attributes(b"owner", AttributeMask::OWNER | AttributeMask::OWNER_GROUP).await)?;
    let text = |name: Option<Box<[u8]>>| name.map(|name| String::from_utf8_lossy(&name).into_owned());
    let (user, group) = (text(found.owner), text(found.owner_group));
    let own = nfs41::Credentials::default();
    let description = format!(
        "created as {}:{}, owned by {}:{}",
        own.user,
        own.group,
        user.as_deref().unwrap_or("?"),
        group.as_deref().unwrap_or("?")
    );
    let values = json!({ "asked": [own.user, own.group], "user": user, "group": group });
    let Some(user) = user else { return Err(unknown("the server does not report the owner")) };
    // A name with a domain instead of a number is inconclusive.
    let outcome = match user.parse::<u32>() {
        Ok(number) if number == own.user => Ok(yes(description)),
        Ok(_) => Ok(no(description)),
        Err(_) => Err(unknown(description)),
    };
    with_values(outcome, values)
}
