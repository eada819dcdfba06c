//! Amazon EC2: the subnets of the VPC.

use aws_sdk_ec2::types::Filter;
use domain::{
    error::AwsError,
    model::{Subnet, SubnetId, VpcId, ZoneId},
    ports::ListSubnets,
};

use crate::{
    Aws,
    errors::DESCRIBE_SUBNETS,
    fault::{classify, incomplete},
};

fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().map(str::to_owned).collect())).build()
}

impl ListSubnets for Aws {
    async fn list_subnets(&self, vpc: &VpcId, only: &[SubnetId]) -> Result<Vec<Subnet>, AwsError> {
        let mut request = self.ec2.describe_subnets().filters(filter("vpc-id", [vpc.as_str()]));
        if !only.is_empty() {
            // A filter instead of SubnetIds, so that one deleted subnet does not fail the call.
            request = request.filters(filter("subnet-id", only.iter().map(SubnetId::as_str)));
        }
        let mut pages = request.into_paginator().items().send();
        let mut subnets = Vec::new();
        while let Some(subnet) = pages.next().await {
            let subnet = subnet.map_err(|err| classify(&DESCRIBE_SUBNETS, vpc, err))?;
            let (Some(id), Some(zone)) = (subnet.subnet_id(), subnet.availability_zone_id()) else {
                return Err(incomplete(&DESCRIBE_SUBNETS, vpc, "SubnetId and AvailabilityZoneId"));
            };
            subnets.push(Subnet {
                id: SubnetId::new(id),
                zone: ZoneId::new(zone),
                // EC2 counts IPv4 addresses, and an IPv6-only subnet has none. If the count is missing, EFS decides.
                free_addresses: match subnet.ipv6_native() {
                    Some(true) => u32::MAX,
                    _ => subnet.available_ip_address_count().map_or(1, |free| free.try_into().unwrap_or(0)),
                },
            });
        }
        Ok(subnets)
    }
}
