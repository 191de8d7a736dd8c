//! What the kernel makes of the messages, as `nft` reads it back in a network namespace of the test's own.

use std::process::Command;

use super::*;

const INSIDE: &str = "MESH_TEST_INSIDE_NAMESPACE";

/// Writes the tables one after the other and returns `nft list ruleset`. None in the outer process, which
/// runs this test again inside of new user and network namespaces, and where that is not possible.
pub(crate) fn listed(test: &str, tables: &[&Table]) -> Option<String> {
    if std::env::var_os(INSIDE).is_some() {
        for table in tables {
            table.replace().unwrap_or_else(|error| panic!("{error}"));
        }
        return Some(list());
    }
    for needed in [&["unshare", "-Urn", "true"][..], &["nft", "--version"]] {
        if !Command::new(needed[0])
            .args(&needed[1..])
            .output()
            .is_ok_and(|run| run.status.success())
        {
            eprintln!("skipped: `{}` does not work here", needed.join(" "));
            return None;
        }
    }
    let test_binary = std::env::current_exe().unwrap();
    let inside = Command::new("unshare")
        .arg("-Urn")
        .arg(test_binary)
        .args([test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&inside.stdout) + String::from_utf8_lossy(&inside.stderr);
    assert!(
        inside.status.success() && output.contains("1 passed"),
        "{output}"
    );
    None
}

fn list() -> String {
    let listing = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    assert!(listing.status.success(), "{listing:?}");
    String::from_utf8(listing.stdout).unwrap()
}

#[test]
fn every_expression() {
    let service = Rule::new()
        .to("10.96.0.7".parse().unwrap())
        .port(Protocol::Udp, 53);
    let endpoints =
        ["10.244.0.2:5300", "10.244.0.3:5301", "10.244.0.4:5302"].map(|a| a.parse().unwrap());
    let service_v6 = Rule::new()
        .to("fd00::7".parse().unwrap())
        .ports(Protocol::Tcp, 80, 81);
    let hairpin: IpAddr = "10.244.0.2".parse().unwrap();
    let table = Table::new("every")
        .chain(
            Chain::nat("prerouting", Hook::Prerouting)
                .rule(Rule::new().arrives_by("veth-web-1").mark(7).accept())
                .rule(Rule::new().owner(2102).leave())
                .rule(Rule::new().jump("services")),
        )
        .chain(
            Chain::nat("postrouting", Hook::Postrouting).rule(
                Rule::new()
                    .leaves_by("eth0")
                    .from(hairpin)
                    .to(hairpin)
                    .masquerade(),
            ),
        )
        .chain(
            Chain::filter("forward", Hook::Forward)
                .rule(
                    Rule::new()
                        .to_network("10.96.0.0/14".parse().unwrap())
                        .protocol(Protocol::Tcp)
                        .leave(),
                )
                .rule(
                    Rule::new()
                        .to("10.96.0.9".parse().unwrap())
                        .port(Protocol::Tcp, 80)
                        .reject(Protocol::Tcp),
                )
                .rule(
                    Rule::new()
                        .to("fd00::9".parse().unwrap())
                        .port(Protocol::Udp, 80)
                        .reject(Protocol::Udp),
                ),
        )
        .chain(
            Chain::regular("services")
                .rules(service.dnat_random(&endpoints))
                .rules(service_v6.dnat_random(&["[fd00::1]:8080".parse().unwrap()]))
                .rules(service.dnat_random(&[]))
                .rule(Rule::new().protocol(Protocol::Tcp).redirect(4140)),
        );
    let Some(found) = listed("every_expression", &[&table]) else {
        return;
    };
    assert_eq!(
        found,
        "table inet every {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname \"veth-web-1\" meta mark 0x00000007 accept
		meta skuid 2102 return
		jump services
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname \"eth0\" ip saddr 10.244.0.2 ip daddr 10.244.0.2 masquerade
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ip daddr 10.96.0.0/14 meta l4proto tcp return
		ip daddr 10.96.0.9 tcp dport 80 reject with tcp reset
		ip6 daddr fd00::9 udp dport 80 reject
	}

	chain services {
		ip daddr 10.96.0.7 udp dport 53 numgen random mod 3 0 dnat ip to 10.244.0.2:5300
		ip daddr 10.96.0.7 udp dport 53 numgen random mod 2 0 dnat ip to 10.244.0.3:5301
		ip daddr 10.96.0.7 udp dport 53 dnat ip to 10.244.0.4:5302
		ip6 daddr fd00::7 tcp dport 80-81 dnat ip6 to [fd00::1]:8080
		meta l4proto tcp redirect to :4140
	}
}
"
    );
}

#[test]
fn a_refused_table_leaves_the_old_one() {
    let old = Table::new("kept").chain(Chain::regular("old"));
    let Some(before) = listed("a_refused_table_leaves_the_old_one", &[&old]) else {
        return;
    };
    let new = Table::new("kept").chain(Chain::regular("new").rule(Rule::new().jump("nowhere")));
    let refusal = new.replace().unwrap_err();
    assert!(
        refusal.to_string().contains("adding a rule to chain new"),
        "{refusal}"
    );
    assert_eq!(list(), before);
}

#[test]
fn removes_what_is_not_there_too() {
    let table = Table::new("gone").chain(Chain::regular("chain"));
    let Some(before) = listed("removes_what_is_not_there_too", &[&table]) else {
        return;
    };
    assert!(before.contains("table inet gone"), "{before}");
    for _ in 0..2 {
        Table::remove("gone").unwrap();
        assert_eq!(list(), "");
    }
}

#[test]
fn many_rules_fit_one_transaction() {
    let rule = Rule::new()
        .to("10.96.0.7".parse().unwrap())
        .port(Protocol::Tcp, 80);
    let endpoints = vec!["10.244.0.2:80".parse().unwrap(); 1000];
    let table =
        Table::new("many").chain(Chain::regular("chain").rules(rule.dnat_random(&endpoints)));
    let Some(found) = listed("many_rules_fit_one_transaction", &[&table]) else {
        return;
    };
    assert_eq!(found.matches("dnat ip to").count(), 1000);
}

#[test]
fn says_what_permission_is_missing() {
    // In a user namespace of its own, but still in the network namespace of others.
    const TEST: &str = "says_what_permission_is_missing";
    if std::env::var_os(INSIDE).is_some() {
        let refusal = Table::remove("mesh").unwrap_err();
        assert!(matches!(refusal, NftError::NotPermitted), "{refusal}");
        return;
    }
    let mut unshare = Command::new("unshare");
    let inside = unshare
        .arg("-Ur")
        .arg(std::env::current_exe().unwrap())
        .arg(TEST)
        .env(INSIDE, "1");
    match inside.output() {
        Ok(run) if run.stdout.is_empty() => eprintln!("skipped: `unshare -Ur` does not work here"),
        Ok(run) => assert!(run.status.success(), "{run:?}"),
        Err(error) => eprintln!("skipped: no `unshare` here: {error}"),
    }
}
