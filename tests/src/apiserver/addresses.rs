//! Cluster addresses of Services: from one IPv4 and one IPv6 range, as `--service-cluster-ip-range` gives them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::{Value, json};

use super::status::Cause;

/// The range of the harness's real API server too.
pub(crate) const RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";

/// The addresses that are taken.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    taken: BTreeSet<IpAddr>,
}

impl Addresses {
    /// Fills in `spec.clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` of a Service that is created.
    ///
    /// # Errors
    /// An address that is asked for is none of the ranges', or is taken.
    pub(super) fn allocate(&mut self, service: &mut Value) -> Result<(), Cause> {
        let spec = &mut service["spec"];
        if spec["type"] == "ExternalName" {
            return Ok(());
        }
        let families = families(spec);
        if spec["clusterIP"] == "None" {
            spec["clusterIPs"] = json!(["None"]);
        } else {
            let mut asked: Vec<String> = strings(&spec["clusterIPs"]);
            if asked.is_empty() {
                asked.extend(
                    spec["clusterIP"]
                        .as_str()
                        .filter(|ip| !ip.is_empty())
                        .map(str::to_owned),
                );
            }
            let mut given = Vec::new();
            for (index, family) in families.iter().enumerate() {
                let ip = match asked.get(index) {
                    Some(ip) => self.take(ip)?,
                    None => self.free(family),
                };
                given.push(ip.to_string());
            }
            spec["clusterIP"] = given[0].as_str().into();
            spec["clusterIPs"] = given.into();
        }
        spec["ipFamilies"] = families.into();
        if spec["ipFamilyPolicy"].is_null() {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
        Ok(())
    }

    /// Gives the addresses of a deleted Service back.
    pub(super) fn release(&mut self, service: &Value) {
        for ip in strings(&service["spec"]["clusterIPs"]) {
            if let Ok(ip) = ip.parse() {
                self.taken.remove(&ip);
            }
        }
    }

    fn take(&mut self, text: &str) -> Result<IpAddr, Cause> {
        let refused = |why: &str| {
            let why = format!("failed to allocate IP {text}: {why}");
            Cause::invalid("spec.clusterIPs", &json!([text]), &why)
        };
        let ip: IpAddr = text
            .parse()
            .map_err(|_| refused("must be a valid IP address"))?;
        if !in_range(ip) {
            return Err(refused("the provided IP is not in the valid range"));
        }
        if !self.taken.insert(ip) {
            return Err(refused("provided IP is already allocated"));
        }
        Ok(ip)
    }

    fn free(&mut self, family: &str) -> IpAddr {
        loop {
            let host = fastrand::u16(256..u16::MAX);
            let ip = address(family, host);
            if self.taken.insert(ip) {
                return ip;
            }
        }
    }
}

/// The families of a Service: those it names, or as many as its policy asks for.
fn families(spec: &Value) -> Vec<String> {
    let mut families = strings(&spec["ipFamilies"]);
    if families.is_empty() {
        let asked = spec["clusterIP"].as_str().unwrap_or_default();
        families.push(if asked.contains(':') { "IPv6" } else { "IPv4" }.to_owned());
    }
    let dual = matches!(
        spec["ipFamilyPolicy"].as_str(),
        Some("PreferDualStack" | "RequireDualStack")
    );
    if dual && families.len() == 1 {
        let other = if families[0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.to_owned());
    }
    families
}

fn address(family: &str, host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    match family {
        "IPv6" => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host).into(),
        _ => Ipv4Addr::new(10, 96, high, low).into(),
    }
}

fn in_range(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..2] == [10, 96],
        IpAddr::V6(ip) => ip.segments()[..7] == [0xfd00, 0x10, 0x96, 0, 0, 0, 0],
    }
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocated(addresses: &mut Addresses, spec: Value) -> Value {
        let mut service = json!({ "spec": spec });
        addresses.allocate(&mut service).expect("addresses");
        service["spec"].take()
    }

    #[test]
    fn one_address_or_two_or_none() {
        let mut addresses = Addresses::default();
        let single = allocated(&mut addresses, json!({}));
        assert_eq!(single["clusterIPs"], json!([single["clusterIP"]]));
        assert_eq!(single["ipFamilies"], json!(["IPv4"]));
        let dual = allocated(
            &mut addresses,
            json!({ "ipFamilyPolicy": "RequireDualStack" }),
        );
        assert_eq!(dual["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(dual["clusterIPs"].as_array().map(Vec::len), Some(2));
        let headless = allocated(&mut addresses, json!({ "clusterIP": "None" }));
        assert_eq!(headless["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn an_address_is_given_once_and_again_after_its_release() {
        let mut addresses = Addresses::default();
        let asked = json!({ "spec": { "clusterIP": "10.96.0.10" } });
        assert!(addresses.allocate(&mut asked.clone()).is_ok());
        let refused = addresses
            .allocate(&mut asked.clone())
            .expect_err("it is taken");
        assert!(refused.message.contains("already allocated"), "{refused:?}");
        addresses.release(&json!({ "spec": { "clusterIPs": ["10.96.0.10"] } }));
        assert!(addresses.allocate(&mut asked.clone()).is_ok());
        let foreign = &mut json!({ "spec": { "clusterIP": "192.0.2.1" } });
        assert!(addresses.allocate(foreign).is_err());
    }
}
