//! Which virtual subnets a host needs the lookup records of: all of the customer networks that have a port or a gateway here.
//!
//! A host routes between all virtual subnets of one customer network, so nothing less will do; of networks that have nobody here, it needs
//! nothing, however many there are.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;

/// The virtual subnets whose records a host needs: `subnets` are all there are, each with its customer network, `local` those that have ports
/// here, and `gateways` the customer networks with a gateway here.
pub fn needed<N: Copy + Eq + Hash>(
    subnets: impl Iterator<Item = (u32, N)> + Clone,
    local: &BTreeSet<u32>,
    gateways: impl Iterator<Item = N>,
) -> BTreeSet<u32> {
    let mut networks: HashSet<N> = gateways.collect();
    networks.extend(subnets.clone().filter(|(vsid, _)| local.contains(vsid)).map(|(_, network)| network));
    subnets.filter(|(_, network)| networks.contains(network)).map(|(vsid, _)| vsid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_9_a_host_needs_the_networks_of_its_guests_and_gateways_whole_and_nothing_else() {
        let subnets = [(5001, "blue"), (5002, "blue"), (6001, "yellow"), (7001, "red")];
        let needed = |local: &[u32], gateways: &[&'static str]| {
            let local = local.iter().copied().collect();
            needed(subnets.into_iter(), &local, gateways.iter().copied()).into_iter().collect::<Vec<u32>>()
        };
        assert!(needed(&[], &[]).is_empty());
        assert_eq!(needed(&[5002], &[]), [5001, 5002]);
        assert_eq!(needed(&[5001], &["red"]), [5001, 5002, 7001]);
        // A port in a virtual subnet that nobody has made yet.
        assert!(needed(&[9999], &[]).is_empty());
    }
}
