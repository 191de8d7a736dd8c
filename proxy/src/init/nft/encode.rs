//! Tables as netlink messages: the numbers are those of linux/netfilter/nf_tables.h and nfnetlink.h.

use super::{Chain, Hook, Rule, Table};

pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
const NFPROTO_INET: u8 = 1;
const NFPROTO_UNSPEC: u8 = 0;

const SUBSYSTEM_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;
/// Attribute of every expression, and of every list element.
const NAME: u16 = 1;
const DATA: u16 = 2;
const ELEMENT: u16 = 1;

/// One transaction, ready to be sent.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// What each message does; its index is the message's sequence number.
    pub(super) what: Vec<String>,
    /// Sequence number of the message that the kernel acknowledges when all went well.
    pub(super) answered: u32,
    /// Where the last message starts.
    last: usize,
}

/// One step of a rule. Conditions load a value into register 1 and compare it there.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Meta(Meta),
    Network {
        offset: u32,
        len: u32,
    },
    Transport {
        offset: u32,
        len: u32,
    },
    Mask(Vec<u8>),
    Compare(Cmp, Vec<u8>),
    Random {
        below: u32,
    },
    Immediate(Register, Vec<u8>),
    /// To the port in register 1.
    Redirect,
    /// To the address in register 1 and the port in register 2.
    Dnat {
        v6: bool,
    },
    Masquerade,
    Reject {
        reset: bool,
    },
    Accept,
    Return,
    Jump(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Register {
    One = 1,
    Two = 2,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    Mark = 3,
    IifName = 6,
    OifName = 7,
    SkUid = 10,
    NfProto = 15,
    L4Proto = 16,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Cmp {
    Eq = 0,
    Lte = 3,
    Gte = 5,
}

/// Adding before deleting makes the deletion succeed where there was no table.
pub(super) fn replace(table: &Table) -> Batch {
    let mut batch = Batch::begin();
    batch.delete_table(&table.name);
    batch.table(&table.name);
    // All chains before all rules: a rule may jump to any.
    for chain in &table.chains {
        batch.chain(&table.name, chain);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            batch.rule(&table.name, &chain.name, rule);
        }
    }
    batch.end()
}

pub(super) fn remove(name: &str) -> Batch {
    let mut batch = Batch::begin();
    batch.delete_table(name);
    batch.end()
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            what: Vec::new(),
            answered: 0,
            last: 0,
        };
        let begin = Attributes::default();
        batch.message(
            BATCH_BEGIN,
            0,
            (NFPROTO_UNSPEC, SUBSYSTEM_NFTABLES),
            &begin,
            || "beginning a transaction".to_owned(),
        );
        batch
    }

    /// Only the last message before the end asks for an answer: errors are answered always, and a
    /// thousand acknowledgements would not fit the socket's buffer.
    fn end(mut self) -> Self {
        self.answered = self.what.len() as u32 - 1;
        // Flags are at offset 6 of the header; the low byte's place depends on the machine's byte order.
        let at = self.last + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        let end = Attributes::default();
        self.message(
            BATCH_END,
            0,
            (NFPROTO_UNSPEC, SUBSYSTEM_NFTABLES),
            &end,
            || "ending the transaction".to_owned(),
        );
        self
    }

    fn table(&mut self, name: &str) {
        let attributes = Attributes::default().string(1, name);
        self.nft(NEW_TABLE, CREATE, &attributes, || {
            format!("adding table {name}")
        });
    }

    fn delete_table(&mut self, name: &str) {
        self.table(name);
        let attributes = Attributes::default().string(1, name);
        self.nft(DELETE_TABLE, 0, &attributes, || {
            format!("deleting table {name}")
        });
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        let mut attributes = Attributes::default()
            .string(1, table)
            .string(3, &chain.name);
        if let Some(base) = chain.base {
            attributes = attributes
                .nested(
                    4,
                    &Attributes::default()
                        .u32(1, base.hook.number())
                        .u32(2, base.priority as u32),
                )
                .string(7, base.kind);
        }
        self.nft(NEW_CHAIN, CREATE, &attributes, || {
            format!("adding chain {}", chain.name)
        });
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let expressions = rule.exprs.iter().fold(Attributes::default(), |list, expr| {
            let (name, data) = expr.encode();
            list.nested(
                ELEMENT,
                &Attributes::default().string(NAME, name).nested(DATA, &data),
            )
        });
        let attributes = Attributes::default()
            .string(1, table)
            .string(2, chain)
            .nested(4, &expressions);
        self.nft(NEW_RULE, CREATE | APPEND, &attributes, || {
            format!("adding a rule to chain {chain} ({:?})", rule.exprs)
        });
    }

    fn nft(
        &mut self,
        kind: u16,
        flags: u16,
        attributes: &Attributes,
        what: impl FnOnce() -> String,
    ) {
        self.message(
            SUBSYSTEM_NFTABLES << 8 | kind,
            flags,
            (NFPROTO_INET, 0),
            attributes,
            what,
        );
    }

    /// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
        attributes: &Attributes,
        what: impl FnOnce() -> String,
    ) {
        let sequence = self.what.len() as u32;
        self.last = self.bytes.len();
        let len = 16 + 4 + attributes.0.len() as u32;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attributes.0);
        self.what.push(what());
    }
}

impl Expr {
    /// The kernel's name of the expression, and its attributes.
    fn encode(&self) -> (&'static str, Attributes) {
        const LOADED: u32 = Register::One as u32;
        let attributes = Attributes::default();
        match self {
            Self::Meta(key) => ("meta", attributes.u32(1, LOADED).u32(2, *key as u32)),
            Self::Network { offset, len } => ("payload", payload(NETWORK_HEADER, *offset, *len)),
            Self::Transport { offset, len } => {
                ("payload", payload(TRANSPORT_HEADER, *offset, *len))
            }
            Self::Mask(mask) => (
                "bitwise",
                attributes
                    .u32(1, LOADED)
                    .u32(2, LOADED)
                    .u32(3, mask.len() as u32)
                    .nested(4, &value(mask))
                    .nested(5, &value(&vec![0; mask.len()])),
            ),
            Self::Compare(op, expected) => (
                "cmp",
                attributes
                    .u32(1, LOADED)
                    .u32(2, *op as u32)
                    .nested(3, &value(expected)),
            ),
            Self::Random { below } => (
                "numgen",
                attributes
                    .u32(1, LOADED)
                    .u32(2, *below)
                    .u32(3, RANDOM)
                    .u32(4, 0),
            ),
            Self::Immediate(register, bytes) => (
                "immediate",
                attributes.u32(1, *register as u32).nested(2, &value(bytes)),
            ),
            Self::Redirect => (
                "redir",
                attributes
                    .u32(1, LOADED)
                    .u32(2, LOADED)
                    .u32(3, RANGE_PROTO_SPECIFIED),
            ),
            Self::Dnat { v6 } => {
                let family = if *v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
                let (address, port) = (Register::One as u32, Register::Two as u32);
                let nat = attributes.u32(1, DNAT).u32(2, family.into());
                let nat = nat
                    .u32(3, address)
                    .u32(4, address)
                    .u32(5, port)
                    .u32(6, port);
                ("nat", nat.u32(7, RANGE_MAP_IPS | RANGE_PROTO_SPECIFIED))
            }
            Self::Masquerade => ("masq", attributes),
            Self::Reject { reset: true } => {
                ("reject", attributes.u32(1, REJECT_TCP_RESET).u8(2, 0))
            }
            Self::Reject { reset: false } => (
                "reject",
                attributes
                    .u32(1, REJECT_ICMPX)
                    .u8(2, ICMPX_PORT_UNREACHABLE),
            ),
            Self::Accept => ("immediate", verdict(ACCEPT, None)),
            Self::Return => ("immediate", verdict(RETURN, None)),
            Self::Jump(chain) => ("immediate", verdict(JUMP, Some(chain))),
        }
    }
}

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const RANDOM: u32 = 1;
const DNAT: u32 = 1;
/// NF_NAT_RANGE_* of linux/netfilter/nf_nat.h.
const RANGE_MAP_IPS: u32 = 1;
const RANGE_PROTO_SPECIFIED: u32 = 2;
const REJECT_TCP_RESET: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACHABLE: u8 = 1;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const RETURN: i32 = -5;

fn payload(header: u32, offset: u32, len: u32) -> Attributes {
    let register = Register::One as u32;
    Attributes::default()
        .u32(1, register)
        .u32(2, header)
        .u32(3, offset)
        .u32(4, len)
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

/// An "immediate" into the verdict register (0).
fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut verdict = Attributes::default().u32(1, code as u32);
    if let Some(chain) = chain {
        verdict = verdict.string(2, chain);
    }
    let data = Attributes::default().nested(2, &verdict);
    Attributes::default().u32(1, 0).nested(2, &data)
}

impl Hook {
    /// NF_INET_* of linux/netfilter.h.
    const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// Attributes: length, type, value, padded to four bytes. Numbers are big-endian, as nf_tables wants them.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    fn string(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // Names are the only values of the caller's; they are far below 64 KiB, or the kernel refuses them.
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}
