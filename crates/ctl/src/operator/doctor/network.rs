//! Checks of the network: zones, free addresses, and the way to port 2049.

use std::{collections::BTreeSet, net::IpAddr};

use domain::model::MountTarget;
use ipnet::IpNet;

use super::{
    checks::{Check, Finding, world},
    facts::Facts,
};

/// Of IPv4 addresses in a subnet: a mount target takes one, and tasks and functions take others.
const MIN_FREE_ADDRESSES: u32 = 8;

pub(super) fn zones(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("zones");
    let Some(world) = world(&mut check, facts) else { return check.done("") };
    let observation = &world.observation;
    let occupied = observation.occupied_zones();
    let mut users: Vec<(String, &[String])> = Vec::new();
    if let Ok(Some(service)) = &facts.service {
        users.push(("the file service".to_owned(), &service.subnets));
    }
    for function in
        facts.functions.values().flatten().filter(|function| function.variables.contains_key("TARGET_DIRECTORY"))
    {
        users.push((format!("the function {}", function.name), &function.subnets));
    }
    for (user, subnets) in users {
        let without: BTreeSet<_> = observation
            .subnets
            .iter()
            .filter(|subnet| subnets.iter().any(|id| id == subnet.id.as_str()) && !occupied.contains(&subnet.zone))
            .map(|subnet| subnet.zone.as_str())
            .collect();
        if !without.is_empty() {
            let zones: Vec<_> = without.into_iter().collect();
            check.problem(
                format!("{user} runs in {}, where there is no mount target", zones.join(", ")),
                "traffic crosses zones, and a mount by DNS name fails there: create a mount target in that zone, or leave the \
                 zone out of its subnets",
            );
        }
    }
    check.done("there is a mount target in every zone of the service and the functions")
}

pub(super) fn addresses(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("free addresses");
    let Some(world) = world(&mut check, facts) else { return check.done("") };
    let observation = &world.observation;
    for subnet in observation.subnets.iter().filter(|subnet| subnet.free_addresses < MIN_FREE_ADDRESSES) {
        check.problem(
            format!("the subnet {} ({}) has {} free addresses", subnet.id, subnet.zone, subnet.free_addresses),
            "release addresses in it, or add a larger subnet of the same zone to SUBNET_IDS",
        );
    }
    check.done(format!("each of {} subnets has at least {MIN_FREE_ADDRESSES}", observation.subnets.len()))
}

pub(super) fn reachability(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("port 2049");
    let (Some(targets), Some(groups)) = (check.known(&facts.target_groups), check.known(&facts.groups)) else {
        return check.done("");
    };
    let group = |id: &String| groups.iter().find(|group| group.id == *id);
    let observation = facts.world.as_ref().map(|world| &world.observation);
    let addresses: Vec<IpAddr> =
        observation.iter().flat_map(|world| &world.targets).filter_map(MountTarget::address).collect();
    let mut users: Vec<(String, &[String])> = Vec::new();
    if let Ok(Some(service)) = &facts.service {
        users.push(("the file service".to_owned(), &service.security_groups));
    }
    for function in facts.functions.values().flatten().filter(|function| !function.security_groups.is_empty()) {
        // Both mount and in-process client reach a mount target.
        if ["TARGET_DIRECTORY", "NFS_HOST"].iter().any(|name| function.variables.contains_key(*name)) {
            users.push((format!("the function {}", function.name), &function.security_groups));
        }
    }
    for (user, own) in users.iter().filter(|(_, own)| !own.is_empty()) {
        // A prefix list is not read, and without an answer of EFS no address is known: neither is called a problem.
        let leads_to = |to: &String| match to.parse::<IpNet>() {
            Ok(range) => addresses.is_empty() || addresses.iter().any(|address| range.contains(address)),
            Err(_) => targets.values().flatten().any(|id| id == to) || to.starts_with("pl-"),
        };
        let may_leave = own.iter().filter_map(group).any(|group| group.egress.iter().any(leads_to));
        if !may_leave {
            check.problem(
                format!("no security group of {user} ({}) lets traffic to port 2049 out", own.join(", ")),
                "allow egress to the security group of the mount targets at TCP 2049",
            );
        }
        for (target, its) in targets {
            let lets_in = its.iter().filter_map(group).any(|group| {
                group.ingress.iter().any(|from| own.contains(from) || from.contains('/') || from.starts_with("pl-"))
            });
            if !lets_in {
                check.problem(
                    format!("the mount target {target} does not let {user} in at port 2049"),
                    format!(
                        "allow ingress at TCP 2049 from {} in {}: aws ec2 authorize-security-group-ingress --group-id {} \
                         --protocol tcp --port 2049 --source-group {}",
                        own.join(", "),
                        its.join(", "),
                        its.first().map_or("GROUP", String::as_str),
                        own.first().map_or("GROUP", String::as_str)
                    ),
                );
            }
        }
    }
    check.done("the security groups let the service and the functions reach every mount target")
}
