//! Whether the service was redeployed since the list was published, and whether ECS would accept a redeployment now. Both
//! [`decide`](crate::policy::decide) and the function `redeploy` use this.

use serde::{Deserialize, Serialize};

use crate::{
    ledger::Deployed,
    model::{Controller, Service},
};

/// ECS refuses another deployment of a service with about this many in progress.
const MAX_DEPLOYMENTS: usize = 5;

/// CloudFormation waits at most this long for a deployment. An older one belongs to no update.
const MAX_DEPLOYMENT_SECONDS: u64 = 3 * 3600;

/// Why a redeployment would be refused or would disturb another deployment. A closed list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deferral {
    /// ECS knows no such service.
    ServiceNotFound,
    /// The service is being deleted.
    ServiceNotActive,
    /// `CODE_DEPLOY` or `EXTERNAL`: that controller must redeploy, or `REDEPLOY=never` must be set.
    DeploymentController,
    /// A redeployment would replace a deployment in progress, for example CloudFormation's.
    DeploymentInProgress,
    TooManyDeployments,
}

impl Deferral {
    /// Its name: the value of the field `reason`.
    pub fn code(self) -> &'static str {
        match self {
            Self::ServiceNotFound => "service_not_found",
            Self::ServiceNotActive => "service_not_active",
            Self::DeploymentController => "deployment_controller",
            Self::DeploymentInProgress => "deployment_in_progress",
            Self::TooManyDeployments => "too_many_deployments",
        }
    }
}

/// Why the service cannot be redeployed at `now` (seconds since 1970); `None` when it can.
pub fn deferral(service: Option<&Service>, now: u64) -> Option<Deferral> {
    let Some(service) = service else { return Some(Deferral::ServiceNotFound) };
    let is_young = |since: Option<u64>| since.is_none_or(|at| now.saturating_sub(at) < MAX_DEPLOYMENT_SECONDS);
    if !service.active {
        Some(Deferral::ServiceNotActive)
    } else if service.controller == Controller::Other {
        Some(Deferral::DeploymentController)
    } else if service.deployments.len() >= MAX_DEPLOYMENTS {
        Some(Deferral::TooManyDeployments)
    } else {
        let under_way = service.deployments.iter().any(|one| one.in_progress && is_young(one.created_at));
        under_way.then_some(Deferral::DeploymentInProgress)
    }
}

/// Evidence of whether the service's tasks have read a list.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Fingerprint of the published list; empty if unknown.
    pub fingerprint: &'a str,
    /// When the parameter was written. Seconds since 1970.
    pub modified_at: Option<u64>,
    /// The ledger's record.
    pub deployed: Option<&'a Deployed>,
    pub service: Option<&'a Service>,
}

impl Evidence<'_> {
    /// Whether the tasks started after the list was published.
    ///
    /// The ledger shows it by the fingerprint of the list, the service by the date of its primary deployment. With that
    /// date, a ledger that cannot be written costs one redeployment and not one per execution.
    pub fn is_covered(&self) -> bool {
        let is_known = !self.fingerprint.is_empty();
        let recorded =
            is_known && self.deployed.is_some_and(|fact| fact.started && fact.fingerprint == self.fingerprint);
        // Dates are truncated to seconds, so an equal second proves nothing.
        recorded || self.dates().is_some_and(|(deployed_at, modified_at)| deployed_at > modified_at)
    }

    /// Whether the date of the next deployment will be evidence without the ledger.
    pub fn has_dates(&self) -> bool {
        self.dates().is_some()
    }

    fn dates(&self) -> Option<(u64, u64)> {
        let primary = self.service?.deployments.iter().find(|deployment| deployment.primary)?;
        primary.created_at.zip(self.modified_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Deployment;

    fn deployment(created_at: Option<u64>, in_progress: bool) -> Deployment {
        Deployment { id: "ecs-svc/1".to_owned(), primary: true, created_at, in_progress, failed: false }
    }

    fn service(deployments: Vec<Deployment>) -> Service {
        Service { deployments, ..Service::default() }
    }

    #[test]
    fn a_redeployment_is_deferred_while_it_would_be_refused_or_supersede_another() {
        let now = 100_000;
        assert_eq!(deferral(None, now), Some(Deferral::ServiceNotFound));
        let at_rest = service(vec![deployment(Some(5), false)]);
        assert_eq!(deferral(Some(&at_rest), now), None);
        let inactive = Service { active: false, ..at_rest.clone() };
        assert_eq!(deferral(Some(&inactive), now), Some(Deferral::ServiceNotActive));
        let other = Service { controller: Controller::Other, ..at_rest };
        assert_eq!(deferral(Some(&other), now), Some(Deferral::DeploymentController));
        let five = service(vec![deployment(Some(5), false); 5]);
        assert_eq!(deferral(Some(&five), now), Some(Deferral::TooManyDeployments));
        for (created_at, expected) in [
            (Some(now), Some(Deferral::DeploymentInProgress)),
            (Some(now - MAX_DEPLOYMENT_SECONDS + 1), Some(Deferral::DeploymentInProgress)),
            (Some(now - MAX_DEPLOYMENT_SECONDS), None),
            (Some(now + 60), Some(Deferral::DeploymentInProgress)),
            (None, Some(Deferral::DeploymentInProgress)),
        ] {
            assert_eq!(deferral(Some(&service(vec![deployment(created_at, true)])), now), expected, "{created_at:?}");
        }
    }

    #[test]
    fn a_list_is_covered_by_the_ledger_or_by_a_later_deployment() {
        let record = |fingerprint: &str, started| Deployed {
            fingerprint: fingerprint.to_owned(),
            started,
            version: 1,
            deployment_id: None,
        };
        let nothing = Evidence { fingerprint: "a", modified_at: None, deployed: None, service: None };
        assert!(!nothing.is_covered() && !nothing.has_dates());
        for (record, covered) in [(record("a", true), true), (record("a", false), false), (record("b", true), false)] {
            assert_eq!(Evidence { deployed: Some(&record), ..nothing }.is_covered(), covered, "{record:?}");
        }
        for (deployed_at, covered) in [(9, false), (10, false), (11, true)] {
            let service = service(vec![deployment(Some(deployed_at), false)]);
            let dated = Evidence { modified_at: Some(10), service: Some(&service), ..nothing };
            assert_eq!((dated.has_dates(), dated.is_covered()), (true, covered), "{deployed_at}");
        }
        let undated = service(vec![deployment(None, false)]);
        assert!(!Evidence { modified_at: Some(10), service: Some(&undated), ..nothing }.has_dates());
        let not_primary = service(vec![Deployment { primary: false, ..deployment(Some(11), false) }]);
        assert!(!Evidence { modified_at: Some(10), service: Some(&not_primary), ..nothing }.is_covered());
    }
}
