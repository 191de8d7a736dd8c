//! What `nft` reads back of the redirection.

use clap::Parser;

use super::nft::tests::listed;
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    init: InitArgs,
}

fn args(flags: &[&str]) -> InitArgs {
    Cli::parse_from([&["init"], flags].concat()).init
}

#[test]
fn redirects_by_mark() {
    let flags = [
        "--exclude-mark=0x6d657368",
        "--skip-inbound-ports=4567-4568,9",
        "--skip-outbound-ports=25",
    ];
    let table = table(&args(&flags)).unwrap();
    let Some(found) = listed("redirects_by_mark", &[&table, &table]) else {
        return;
    };
    assert_eq!(
        found,
        "table inet mesh {
	chain output {
		type nat hook output priority -100; policy accept;
		meta mark 0x6d657368 return
		oifname \"lo\" return
		tcp dport 25 return
		meta l4proto tcp redirect to :4140
	}

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 4140 return
		tcp dport 4143 return
		tcp dport 4191 return
		tcp dport 4567-4568 return
		tcp dport 9 return
		meta l4proto tcp redirect to :4143
	}
}
"
    );
}

#[test]
fn redirects_by_user() {
    let table = table(&args(&[
        "--exclude-uid=2102",
        "--outbound-port=1",
        "--inbound-port=2",
    ]))
    .unwrap();
    let Some(found) = listed("redirects_by_user", &[&table]) else {
        return;
    };
    assert!(found.contains("meta skuid 2102 return"), "{found}");
    assert!(
        found.contains("redirect to :1\n") && found.contains("redirect to :2\n"),
        "{found}"
    );
}

#[test]
fn something_must_be_excluded() {
    assert!(matches!(table(&args(&[])), Err(InitError::NothingExcluded)));
}
