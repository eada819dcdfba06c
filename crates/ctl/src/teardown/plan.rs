//! What a teardown deletes outside the stack. Changes nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aws_sdk_ssm::operation::get_parameters_by_path::GetParametersByPathOutput;
use domain::{
    ledger::{self, Owner},
    model::{MountTarget, ParameterName, ZoneId},
    ports::ListTargets,
};

use super::{
    Clients, Options,
    system::{StackRole, System},
};

/// The resources outside the stack, by what happens to them.
pub struct Plan {
    /// Mount targets that are deleted: this system created them.
    pub owned: Vec<MountTarget>,
    /// Mount targets that this system may have created, and that stay.
    pub uncertain: Vec<MountTarget>,
    /// Mount targets that somebody else created. They stay, and block the deletion of their file system.
    pub foreign: Vec<MountTarget>,
    /// The published list and the ledger entries below it, by name.
    pub parameters: BTreeMap<ParameterName, String>,
}

impl Plan {
    /// # Errors
    /// AWS cannot be called.
    pub async fn new(clients: &Clients, system: &System, delete_uncertain: bool) -> Result<Self> {
        let parameters = match &system.parameter {
            Some(published) => parameters(clients, published).await?,
            None => BTreeMap::new(),
        };
        let mut plan = Self { owned: vec![], uncertain: vec![], foreign: vec![], parameters };
        let Some(file_system) = &system.file_system else { return Ok(plan) };
        for target in targets(clients, system).await? {
            if !target.occupies_its_zone() || system.targets.iter().any(|id| id == target.id.as_str()) {
                continue;
            }
            let text = |name: fn(&ParameterName, &ZoneId) -> ParameterName| {
                let name = system.parameter.as_ref().map(|published| name(published, &target.zone))?;
                plan.parameters.get(&name).map(String::as_str)
            };
            let created = text(ledger::created_name).and_then(ledger::read);
            let intended = text(ledger::intended_name).and_then(ledger::read);
            match ledger::owner(file_system, &target, created.as_ref(), intended.as_ref()) {
                Owner::System => plan.owned.push(target),
                Owner::Unknown if delete_uncertain => plan.owned.push(target),
                Owner::Unknown => plan.uncertain.push(target),
                Owner::Others => plan.foreign.push(target),
            }
        }
        Ok(plan)
    }

    /// All parameters, except the list if a service outside the stack reads it.
    pub fn parameters_to_delete<'a>(&'a self, system: &'a System) -> impl Iterator<Item = &'a ParameterName> {
        self.parameters.keys().filter(|name| system.owns_service || Some(*name) != system.parameter.as_ref())
    }

    /// The preview that a user confirms.
    pub fn lines(&self, system: &System, options: &Options) -> Vec<String> {
        let row = |name: &str, text: String| format!("  {name:<14}{text}");
        let targets = |name: &str, targets: &[MountTarget], note: &str| -> Vec<String> {
            let shown =
                |target: &MountTarget| row(name, format!("mount target {} in {}{note}", target.id, target.zone_name));
            targets.iter().map(shown).collect()
        };
        let mut lines = vec![format!("{} and what it created:", options.stack)];
        lines.extend(system.schedule.iter().map(|name| row("pauses", format!("the schedule {name}"))));
        lines.extend(system.service.iter().map(|name| match system.owns_service {
            true => row("stops", format!("the service {}", name.service)),
            false => row("redeploys", format!("the service {}, on the remaining targets", name.service)),
        }));
        lines.extend(targets("deletes", &self.owned, ""));
        lines.extend(self.parameters_to_delete(system).map(|name| row("deletes", format!("parameter {name}"))));
        if !options.keep_stack {
            lines.extend(system.system.iter().map(|stack| row("deletes", format!("the stack {}", stack.name))));
        }
        if let Some(data) = &system.data {
            let file_system = match (&system.file_system, system.file_system_in) {
                (Some(id), Some(StackRole::Data)) => format!(" with the file system {id}"),
                _ => String::new(),
            };
            lines.push(match options.data {
                true => row("deletes", format!("the stack {}{file_system} and ALL FILES in it", data.name)),
                false => row("keeps", format!("the stack {}{file_system}: --data deletes it", data.name)),
            });
        }
        lines.extend(targets("leaves", &self.uncertain, ": this system may have created it; --uncertain deletes it"));
        lines.extend(targets("leaves", &self.foreign, ": somebody else created it"));
        lines
    }
}

/// The mount targets of the file system.
pub async fn targets(clients: &Clients, system: &System) -> Result<Vec<MountTarget>> {
    match &system.file_system {
        Some(id) => {
            clients.aws.list_targets(id).await.with_context(|| format!("cannot list the mount targets of {id}"))
        }
        None => Ok(vec![]),
    }
}

/// The published list and all parameters below it.
async fn parameters(clients: &Clients, published: &ParameterName) -> Result<BTreeMap<ParameterName, String>> {
    let ssm = &clients.aws.ssm;
    let mut found = BTreeMap::new();
    let list = ssm.get_parameters().names(published.as_str()).with_decryption(true).send().await;
    let list = list.context("cannot read the parameters")?;
    let below = ssm.get_parameters_by_path().path(published.as_str()).recursive(true).with_decryption(true);
    let below = below.into_paginator().send().collect::<Result<Vec<_>, _>>().await;
    let below = below.context("cannot read the parameters")?;
    for parameter in list.parameters().iter().chain(below.iter().flat_map(GetParametersByPathOutput::parameters)) {
        if let (Some(name), Some(value)) = (parameter.name(), parameter.value()) {
            found.insert(ParameterName::new(name), value.to_owned());
        }
    }
    Ok(found)
}
