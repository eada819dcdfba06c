//! May anything be made there, and whose is it?

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
        return Err(excluded("nothing shall be changed (--read-only)"));
    }
    let client = world.root_client(host)?;
    world.begun.store(true, Ordering::Relaxed);
    let made = client.create_dir(world.name.as_bytes(), 0o700).await;
    client.close().await;
    if matches!(made, Ok(()) | Err(Error::Status { .. })) {
        let _ = world.refused.set(made.is_err());
    }
    or_no(made)?;
    world.made.store(true, Ordering::Relaxed);
    Ok(yes(world.directory()))
}

pub async fn access_agrees(world: &World) -> CheckResult {
    const CHANGE: u32 = 4;
    const ADD: u32 = 8;
    world.host()?;
    if world.setup.options.read_only {
        return Err(excluded("nothing shall be changed (--read-only)"));
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

pub async fn owner(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"owner", Bytes::new(), PutOptions::default()).await)?;
    let found = or_no(client.attributes(b"owner", AttributeMask::OWNER | AttributeMask::OWNER_GROUP).await)?;
    let text = |name: Option<Box<[u8]>>| name.map(|name| String::from_utf8_lossy(&name).into_owned());
    let (user, group) = (text(found.owner), text(found.owner_group));
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
    with_values(outcome, values)
}
