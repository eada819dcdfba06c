//! What would be deleted, of what is outside the stack. Only looks.

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
    system::{Part, System},
};

/// What there is now.
pub struct Plan {
    /// Mount targets that go.
    pub ours: Vec<MountTarget>,
    /// That may be the system's, and are left.
    pub uncertain: Vec<MountTarget>,
    /// That somebody else has made: they stay, and block the deletion of a file system that is the stack's.
    pub others: Vec<MountTarget>,
    /// The published list and the facts below it, by name.
    pub parameters: BTreeMap<ParameterName, String>,
}

impl Plan {
    /// # Errors
    /// When AWS does not answer.
    pub async fn of(clients: &Clients, system: &System, take_uncertain: bool) -> Result<Self> {
        let parameters = match &system.parameter {
            Some(published) => parameters(clients, published).await?,
            None => BTreeMap::new(),
        };
        let mut plan = Self { ours: vec![], uncertain: vec![], others: vec![], parameters };
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
                Owner::System => plan.ours.push(target),
                Owner::Unknown if take_uncertain => plan.ours.push(target),
                Owner::Unknown => plan.uncertain.push(target),
                Owner::Others => plan.others.push(target),
            }
        }
        Ok(plan)
    }

    /// All but the list that a service that stays reads.
    pub fn parameters_that_go<'a>(&'a self, system: &'a System) -> impl Iterator<Item = &'a ParameterName> {
        self.parameters.keys().filter(|name| system.owns_service || Some(*name) != system.parameter.as_ref())
    }

    /// What a person reads before anything is done.
    pub fn lines(&self, system: &System, options: &Options) -> Vec<String> {
        let row = |name: &str, text: String| format!("  {name:<14}{text}");
        let targets = |name: &str, targets: &[MountTarget], err: &str| -> Vec<String> {
            let shown =
                |target: &MountTarget| row(name, format!("mount target {} in {}{err}", target.id, target.zone_name));
            targets.iter().map(shown).collect()
        };
        let mut lines = vec![format!("{} and what it has made:", options.stack)];
        lines.extend(system.schedule.iter().map(|name| row("pauses", format!("the schedule {name}"))));
        lines.extend(system.service.iter().map(|name| match system.owns_service {
            true => row("stops", format!("the service {}", name.service)),
            false => row("redeploys", format!("the service {}, on the list that is left", name.service)),
        }));
        lines.extend(targets("deletes", &self.ours, ""));
        lines.extend(self.parameters_that_go(system).map(|name| row("deletes", format!("parameter {name}"))));
        if !options.keep_stack {
            lines.extend(system.system.iter().map(|stack| row("deletes", format!("the stack {}", stack.name))));
        }
        if let Some(data) = &system.data {
            let files = match (&system.file_system, system.file_system_in) {
                (Some(id), Some(Part::Data)) => format!(" with the file system {id}"),
                _ => String::new(),
            };
            lines.push(match options.data {
                true => row("deletes", format!("the stack {}{files} and ALL FILES in it", data.name)),
                false => row("keeps", format!("the stack {}{files}: --data deletes it", data.name)),
            });
        }
        lines.extend(targets("leaves", &self.uncertain, ": it may be the system's; --uncertain deletes it"));
        lines.extend(targets("leaves", &self.others, ": somebody else has made it"));
        lines
    }
}

/// The mount targets of the file system.
pub async fn targets(clients: &Clients, system: &System) -> Result<Vec<MountTarget>> {
    match &system.file_system {
        Some(id) => clients.aws.list_targets(id).await.with_context(|| format!("the mount targets of {id}")),
        None => Ok(vec![]),
    }
}

/// The published list and every fact below it.
async fn parameters(clients: &Clients, published: &ParameterName) -> Result<BTreeMap<ParameterName, String>> {
    let ssm = &clients.aws.ssm;
    let mut found = BTreeMap::new();
    let own = ssm.get_parameters().names(published.as_str()).with_decryption(true).send().await;
    let own = own.context("Systems Manager cannot be asked")?;
    let below = ssm.get_parameters_by_path().path(published.as_str()).recursive(true).with_decryption(true);
    let below = below.into_paginator().send().collect::<Result<Vec<_>, _>>().await;
    let below = below.context("Systems Manager cannot be asked")?;
    for parameter in own.parameters().iter().chain(below.iter().flat_map(GetParametersByPathOutput::parameters)) {
        if let (Some(name), Some(value)) = (parameter.name(), parameter.value()) {
            found.insert(ParameterName::new(name), value.to_owned());
        }
    }
    Ok(found)
}
