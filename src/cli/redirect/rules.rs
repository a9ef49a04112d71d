//! The rules as text. Plain functions, so that what is printed is what is loaded.

/// Name of the table for nftables.
pub(super) const TABLE: &str = "keytally";
/// Name of its one chain.
pub(super) const CHAIN_NFT: &str = "output";
/// Name of the chain for iptables.
pub(super) const CHAIN: &str = "KEYTALLY";

/// Takes the table out, if it is there: declaring it first makes that no failure.
const NFT_REMOVE: &str = "table inet keytally\ndelete table inet keytally\n";

/// What is redirected, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Users whose connections are left alone.
    pub(super) uids: Vec<u32>,
    /// Ports whose connections are redirected.
    pub(super) ports: Vec<u16>,
    /// Port that takes them.
    pub(super) to: u16,
}

impl Rules {
    /// For `nft -f -`: what [`super::netfilter`] loads, in one transaction that replaces the table of an earlier one.
    pub(super) fn nft(&self) -> String {
        let mut text = format!("{NFT_REMOVE}table inet {TABLE} {{\n\tchain {CHAIN_NFT} {{\n");
        text += "\t\ttype nat hook output priority -100; policy accept;\n\t\t# the sidecar itself\n";
        for uid in &self.uids {
            text += &format!("\t\tmeta skuid {uid} return\n");
        }
        text += "\t\t# this machine and loopback\n\t\tfib daddr type local return\n";
        for port in &self.ports {
            text += &format!("\t\ttcp dport {port} redirect to :{}\n", self.to);
        }
        text + "\t}\n}\n"
    }

    /// For `iptables-restore --noflush` and `ip6tables-restore --noflush`, without the jump from OUTPUT, which must not be
    /// there twice.
    pub(super) fn iptables(&self) -> String {
        let mut text = format!("*nat\n:{CHAIN} - [0:0]\n");
        for uid in &self.uids {
            text += &format!("-A {CHAIN} -m owner --uid-owner {uid} -j RETURN\n");
        }
        text += &format!("-A {CHAIN} -m addrtype --dst-type LOCAL -j RETURN\n");
        for port in &self.ports {
            text += &format!("-A {CHAIN} -p tcp -m tcp --dport {port} -j REDIRECT --to-ports {}\n", self.to);
        }
        text + "COMMIT\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_and_loopback_come_first() {
        let rules = Rules { uids: vec![65532, 7], ports: vec![443, 80], to: 4142 };
        let nft = rules.nft();
        assert!(nft.starts_with(NFT_REMOVE), "one transaction: {nft}");
        let at = |text: &str| nft.find(text).unwrap_or_else(|| panic!("{text} is not in {nft}"));
        assert!(at("skuid 65532 return") < at("skuid 7 return"));
        assert!(at("skuid 7 return") < at("daddr type local return"));
        assert!(at("daddr type local return") < at("tcp dport 443 redirect to :4142"));
        assert!(at("tcp dport 443 redirect") < at("tcp dport 80 redirect to :4142"));
        let iptables = rules.iptables();
        let lines: Vec<_> = iptables.lines().collect();
        assert_eq!(lines.first(), Some(&"*nat"));
        assert_eq!(lines[2], "-A KEYTALLY -m owner --uid-owner 65532 -j RETURN");
        assert_eq!(lines[6], "-A KEYTALLY -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 4142");
        assert_eq!(lines.last(), Some(&"COMMIT"));
    }
}
