//! A stateful in-memory fake of AWS with EFS's rules and injected faults.
//!
//! For what the emulator is too slow for: every interleaving of two executions, a fault at every single call.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use domain::{
    config::{IpAddressType, ParameterType, ServiceName},
    error::{AwsError, AwsFault, CreateFailure, PutFailure, UpdateFailure},
    model::{
        Deployment, FileSystem, FileSystemId, LifeCycle, MountTarget, MountTargetId, ParameterName, SecurityGroupId,
        Service, Subnet, SubnetId, VpcId, ZoneId, ZoneName,
    },
    ports::{
        Clock, CreateTarget, DeleteParameter, DescribeFileSystem, DescribeService, ListSubnets, ListTargets, Parameter,
        ReadParameters, Redeploy, WriteParameter,
    },
};

pub const FILE_SYSTEM: &str = "fs-0123456789abcdef0";

/// The fault of one call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Not carried out, and reported so: the caller may retry.
    Refused,
    /// Carried out, and the response is lost.
    AnswerLost,
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub one_zone: Option<ZoneId>,
    pub subnets: Vec<Subnet>,
    pub targets: Vec<MountTarget>,
    pub parameters: BTreeMap<ParameterName, Parameter>,
    pub deployments: Vec<Deployment>,
    pub redeployments: u32,
    /// Parameters that cannot be written.
    pub read_only: BTreeSet<ParameterName>,
    /// Subnets that EFS always refuses.
    pub outposts: BTreeSet<SubnetId>,
    /// The account has reached its quota of network interfaces.
    pub quota_is_reached: bool,
    pub refused_creations: u32,
    /// Targets created by `create_target`, which belong to the system.
    pub made: BTreeSet<MountTargetId>,
    /// Number of polls until a `creating` target becomes `available`.
    pub creating_looks: u32,
}

/// The state, shared by concurrent executions.
#[derive(Debug, Default)]
pub struct Fake {
    pub state: RefCell<State>,
    /// By call number.
    pub faults: RefCell<BTreeMap<usize, Fault>>,
    /// How often each call yields to other executions, by call number.
    pub yields: RefCell<Vec<u8>>,
    calls: Cell<usize>,
    looks: RefCell<BTreeMap<MountTargetId, u32>>,
    made: Cell<u32>,
    time: Cell<u64>,
    /// Parameters and deployments have no dates.
    pub undated: Cell<bool>,
}

impl Fake {
    /// A network with a subnet in each of these zones, a target in the first ones, nothing published.
    pub fn new(zones: usize, targets: usize) -> Self {
        let fake = Self::default();
        let mut state = fake.state.borrow_mut();
        state.creating_looks = 2;
        state.subnets = (0..zones)
            .map(|zone| Subnet { id: subnet(zone), zone: ZoneId::new(format!("az{zone}")), free_addresses: 10 })
            .collect();
        state.targets = (0..targets.min(zones))
            .map(|zone| target(&format!("fsmt-theirs{zone}"), zone, LifeCycle::Available))
            .collect();
        state.deployments.push(deployment("ecs-svc/0".to_owned(), Some(0)));
        drop(state);
        fake
    }

    pub fn calls(&self) -> usize {
        self.calls.get()
    }

    /// Advances the clock by seconds.
    pub fn pass(&self, seconds: u64) {
        self.time.set(self.time.get() + seconds);
    }

    /// Yields to other executions; returns the fault of this call.
    async fn call(&self) -> Option<Fault> {
        let number = self.calls.get();
        self.calls.set(number + 1);
        let yields = self.yields.borrow().get(number).copied().unwrap_or(0);
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        self.time.set(self.time.get() + 1);
        self.faults.borrow().get(&number).copied()
    }

    /// One call: refused, or carried out, possibly with a lost response.
    async fn carry_out<T, E: From<AwsError>>(&self, work: impl FnOnce(&mut State) -> Result<T, E>) -> Result<T, E> {
        let fault = self.call().await;
        if fault == Some(Fault::Refused) {
            return Err(AwsError::Throttled(a_fault("ThrottlingException")).into());
        }
        let outcome = work(&mut self.state.borrow_mut());
        match fault {
            Some(Fault::AnswerLost) => Err(AwsError::Unavailable(a_fault("Timeout")).into()),
            _ => outcome,
        }
    }
}

pub fn subnet(zone: usize) -> SubnetId {
    SubnetId::new(format!("subnet-{zone}"))
}

/// A target in the zone with this number.
pub fn target(id: &str, zone: usize, state: LifeCycle) -> MountTarget {
    MountTarget {
        id: MountTargetId::new(id),
        subnet: subnet(zone),
        vpc: None,
        zone: ZoneId::new(format!("az{zone}")),
        zone_name: ZoneName::new(format!("region-1{zone}")),
        ip: Some(Ipv4Addr::new(10, 0, u8::try_from(zone).unwrap_or(u8::MAX), 4)),
        ipv6: None,
        state,
    }
}

/// A complete deployment, the only one of its service.
fn deployment(id: String, created_at: Option<u64>) -> Deployment {
    Deployment { id, primary: true, created_at, in_progress: false, failed: false }
}

pub fn a_fault(code: &str) -> AwsFault {
    AwsFault {
        operation: "fake",
        resource: "it".into(),
        code: code.to_owned(),
        message: "as told".to_owned(),
        request_id: None,
        source: None,
    }
}

impl Clock for Fake {
    fn now(&self) -> u64 {
        self.time.get()
    }
}

impl ListTargets for Fake {
    async fn list_targets(&self, _: &FileSystemId) -> Result<Vec<MountTarget>, AwsError> {
        self.carry_out(|state| {
            let mut looks = self.looks.borrow_mut();
            for target in state.targets.iter_mut().filter(|target| target.state == LifeCycle::Creating) {
                let seen = looks.entry(target.id.clone()).or_default();
                *seen += 1;
                if *seen > state.creating_looks {
                    target.state = LifeCycle::Available;
                }
            }
            Ok(state.targets.clone())
        })
        .await
    }
}

impl CreateTarget for Fake {
    async fn create_target(
        &self,
        _: &FileSystemId,
        subnet: &SubnetId,
        _: &[SecurityGroupId],
        addresses: IpAddressType,
    ) -> Result<MountTarget, CreateFailure> {
        self.carry_out(|state| {
            if state.quota_is_reached {
                state.refused_creations += 1;
                return Err(AwsError::Refused(a_fault("NetworkInterfaceLimitExceeded")).into());
            }
            if state.outposts.contains(subnet) {
                state.refused_creations += 1;
                return Err(CreateFailure::Subnet(a_fault("BadRequest")));
            }
            let Some(subnet) = state.subnets.iter_mut().find(|known| known.id == *subnet) else {
                return Err(CreateFailure::Subnet(a_fault("SubnetNotFound")));
            };
            if state.targets.iter().any(|target| target.zone == subnet.zone && target.occupies_its_zone()) {
                return Err(CreateFailure::Conflict(a_fault("MountTargetConflict")));
            }
            if subnet.free_addresses == 0 {
                return Err(CreateFailure::Subnet(a_fault("NoFreeAddressesInSubnet")));
            }
            subnet.free_addresses -= 1;
            let zone = subnet.zone.as_str().trim_start_matches("az").parse().unwrap_or(0);
            let mut made =
                target(&format!("fsmt-ours{}", self.made.replace(self.made.get() + 1)), zone, LifeCycle::Creating);
            made.subnet = subnet.id.clone();
            made.ipv6 = (addresses != IpAddressType::Ipv4Only).then_some(Ipv6Addr::LOCALHOST);
            made.ip = made.ip.filter(|_| addresses != IpAddressType::Ipv6Only);
            state.made.insert(made.id.clone());
            state.targets.push(made.clone());
            Ok(made)
        })
        .await
    }
}

impl DescribeFileSystem for Fake {
    async fn describe_file_system(&self, id: &FileSystemId) -> Result<Option<FileSystem>, AwsError> {
        self.carry_out(|state| Ok(Some(FileSystem { id: id.clone(), one_zone: state.one_zone.clone() }))).await
    }
}

impl ListSubnets for Fake {
    async fn list_subnets(&self, _: &VpcId, only: &[SubnetId]) -> Result<Vec<Subnet>, AwsError> {
        self.carry_out(|state| {
            let wanted = |subnet: &&Subnet| only.is_empty() || only.contains(&subnet.id);
            Ok(state.subnets.iter().filter(wanted).cloned().collect())
        })
        .await
    }
}

impl ReadParameters for Fake {
    async fn read_parameters(&self, names: &[ParameterName]) -> Result<BTreeMap<ParameterName, Parameter>, AwsError> {
        self.carry_out(|state| {
            let found = names.iter().filter_map(|name| Some((name.clone(), state.parameters.get(name)?.clone())));
            Ok(found.collect())
        })
        .await
    }
}

impl WriteParameter for Fake {
    async fn write_parameter(&self, name: &ParameterName, value: &str, _: ParameterType) -> Result<i64, PutFailure> {
        self.carry_out(|state| {
            if state.read_only.contains(name) {
                return Err(AwsError::Refused(a_fault("AccessDeniedException")).into());
            }
            let version = state.parameters.get(name).map_or(1, |there| there.version + 1);
            let modified_at = (!self.undated.get()).then_some(self.time.get());
            state.parameters.insert(name.clone(), Parameter { value: value.to_owned(), version, modified_at });
            Ok(version)
        })
        .await
    }
}

impl DeleteParameter for Fake {
    async fn delete_parameter(&self, name: &ParameterName) -> Result<(), AwsError> {
        self.carry_out(|state| {
            state.parameters.remove(name);
            Ok(())
        })
        .await
    }
}

impl DescribeService for Fake {
    async fn describe_service(&self, _: &ServiceName) -> Result<Option<Service>, AwsError> {
        self.carry_out(|state| Ok(Some(Service { deployments: state.deployments.clone(), ..Service::default() }))).await
    }
}

impl Redeploy for Fake {
    async fn redeploy(&self, _: &ServiceName) -> Result<Option<String>, UpdateFailure> {
        self.carry_out(|state| {
            let last = state.deployments.last().and_then(|last| last.id.strip_prefix("ecs-svc/")?.parse::<u32>().ok());
            let id = format!("ecs-svc/{}", last.unwrap_or(0) + 1);
            let created_at = (!self.undated.get()).then_some(self.time.get());
            state.deployments = vec![deployment(id.clone(), created_at)];
            state.redeployments += 1;
            Ok(Some(id))
        })
        .await
    }
}
