//! The rules spoken to the kernel itself (nf_tables over netlink): no program is needed, so an image with nothing but
//! keytally in it can load them.
//!
//! In: [`Rules`]. Out: one transaction, that replaces the table of an earlier one, or removes it; all of it or nothing
//! happens. What is loaded is what [`Rules::nft`] prints; a test compares the two as `nft` lists them. Sources:
//! `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h` of Linux 6.1.

use std::io;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::rules::{CHAIN_NFT, Rules, TABLE};

const NFPROTO_INET: u8 = 1;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_ACCEPT: u32 = 1;
/// Destination NAT comes at this priority.
const NF_IP_PRI_NAT_DST: i32 = -100;
const IPPROTO_TCP: u8 = 6;
const RTN_LOCAL: u32 = 2;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;

const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const NFT_RETURN: i32 = -5;

/// Loads the rules in place of earlier ones.
///
/// # Errors
/// What the kernel says: no permission, no nf_tables.
pub(super) fn install(rules: &Rules) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.replace_table();
    batch.table(NEW_TABLE, NLM_F_CREATE);
    let hook = [number(1, NF_INET_LOCAL_OUT), number(2, NF_IP_PRI_NAT_DST as u32)].concat();
    let chain = [text(1, TABLE), text(3, CHAIN_NFT), nested(4, &hook), number(5, NF_ACCEPT), text(7, "nat")];
    batch.message(NEW_CHAIN, NLM_F_CREATE, NFPROTO_INET, 0, &chain.concat());
    for uid in &rules.uids {
        batch.rule(&[meta(10), equals(&uid.to_ne_bytes()), returns()]);
    }
    let destination_type = [number(1, REGISTER), number(2, 3), number(3, 2)].concat();
    batch.rule(&[expression("fib", &destination_type), equals(&RTN_LOCAL.to_ne_bytes()), returns()]);
    for port in &rules.ports {
        let destination_port = [number(1, REGISTER), number(2, 2), number(3, 2), number(4, 2)].concat();
        let to = [number(1, REGISTER), nested(2, &attribute(1, &rules.to.to_be_bytes()))].concat();
        batch.rule(&[
            meta(16),
            equals(&[IPPROTO_TCP]),
            expression("payload", &destination_port),
            equals(&port.to_be_bytes()),
            expression("immediate", &to),
            expression("redir", &number(1, REGISTER)),
        ]);
    }
    batch.commit()
}

/// Takes the table out, if it is there.
///
/// # Errors
/// As [`install`].
pub(super) fn remove() -> io::Result<()> {
    let mut batch = Batch::new();
    batch.replace_table();
    batch.commit()
}

/// One transaction.
struct Batch {
    bytes: Vec<u8>,
    /// Messages that the kernel answers.
    asked: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), asked: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, &[]);
        batch
    }

    /// Declares the table first, so that deleting one that is not there is no failure.
    fn replace_table(&mut self) {
        self.table(NEW_TABLE, NLM_F_CREATE);
        self.table(DELETE_TABLE, 0);
    }

    fn table(&mut self, kind: u16, flags: u16) {
        self.message(kind, flags, NFPROTO_INET, 0, &text(1, TABLE));
    }

    fn rule(&mut self, expressions: &[Vec<u8>]) {
        let list: Vec<u8> = expressions.iter().flat_map(|expression| nested(1, expression)).collect();
        let body = [text(1, TABLE), text(2, CHAIN_NFT), nested(4, &list)].concat();
        self.message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, NFPROTO_INET, 0, &body);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        let is_frame = matches!(kind, BATCH_BEGIN | BATCH_END);
        let flags = NLM_F_REQUEST | flags | if is_frame { 0 } else { NLM_F_ACK };
        self.asked += u32::from(!is_frame);
        let length = (HEADER_BYTES + 4 + body.len()) as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.asked.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
    }

    fn commit(mut self) -> io::Result<()> {
        let asked = self.asked;
        self.message(BATCH_END, 0, 0, SUBSYSTEM, &[]);
        let kernel =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
        set_socket_timeout(&kernel, Timeout::Recv, Some(Duration::from_secs(5)))?;
        send(&kernel, &self.bytes, SendFlags::empty())?;
        let mut answered = 0;
        let mut buffer = vec![0; 64 * 1024];
        while answered < asked {
            let (length, _) = recv(&kernel, &mut buffer[..], RecvFlags::empty())?;
            answered += acknowledged(&buffer[..length])?;
        }
        Ok(())
    }
}

/// How many messages the kernel says it has taken.
///
/// # Errors
/// The first refusal among its answers.
pub(crate) fn acknowledged(mut answers: &[u8]) -> io::Result<u32> {
    let mut count = 0;
    while let Some((header, _)) = answers.split_at_checked(HEADER_BYTES) {
        let word = |at: usize| header.get(at..at + 4).and_then(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
        let length = word(0).unwrap_or_default() as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(message) = answers.get(..length).filter(|message| message.len() >= HEADER_BYTES) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if kind == NLMSG_ERROR {
            let code = message.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|code| code.try_into().ok());
            match i32::from_ne_bytes(code.ok_or(io::ErrorKind::InvalidData)?) {
                0 => count += 1,
                code => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            }
        }
        answers = answers.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(count)
}

// === attributes ===

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, attributes)
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

// === expressions ===

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    [text(1, name), nested(2, data)].concat()
}

/// Loads what is known of a packet: 10 is the user of its socket, 16 the protocol.
fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)].concat())
}

/// Goes on if what was loaded is this.
fn equals(value: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, REGISTER), number(2, 0), nested(3, &attribute(1, value))].concat())
}

fn returns() -> Vec<u8> {
    let verdict = nested(2, &number(1, NFT_RETURN as u32));
    expression("immediate", &[number(1, VERDICT_REGISTER), nested(2, &verdict)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_tell_their_own_length() {
        assert_eq!(attribute(1, &[7]), [[5, 0], [1, 0], [7, 0], [0, 0]].concat());
        assert_eq!(text(1, "nat").len(), 8);
    }

    #[test]
    fn answers_are_read_whole_or_refused() {
        let answer = |code: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend(NLMSG_ERROR.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert_eq!(acknowledged(&[answer(0), answer(0)].concat()).unwrap(), 2);
        assert_eq!(acknowledged(&[answer(0), answer(-1)].concat()).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledged(&answer(0)[..20]).is_err());
        assert_eq!(acknowledged(&[]).unwrap(), 0);
    }
}
