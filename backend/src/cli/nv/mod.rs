//! `turnpike nv …`
//!
//! [`nouns`] has the objects, [`document`] all of them at once and the policy store.

mod document;
mod nouns;

use clap::Subcommand;

use super::client::Client;
use super::{Answer, Outcome};

#[derive(Debug, Subcommand)]
pub(super) enum Nv {
    /// Customer networks (routing domains): what is in different ones never meets.
    #[command(subcommand)]
    Network(nouns::Network),
    /// Virtual subnets of customer networks.
    #[command(subcommand)]
    Subnet(nouns::Subnet),
    /// Lookup records: which guest has a customer address, and at which host it is.
    #[command(subcommand)]
    Record(nouns::Record),
    /// Provider addresses of this host, between which tenants' packets are carried.
    #[command(subcommand)]
    Provider(nouns::Provider),
    /// Customer routes, to what is not in a virtual subnet.
    #[command(subcommand)]
    Route(nouns::Route),
    /// Ways of customer networks to physical ones, at this host.
    #[command(subcommand)]
    Gateway(nouns::Gateway),
    /// Print all of it as one document (JSON) for `import`.
    Export,
    /// Make all of it equal to a document; refused as a whole, with everything that is wrong in it, or done.
    Import(document::Import),
    /// Say where packets for a customer address go, and why; nothing is sent.
    Resolve(document::Resolve),
    /// Where the policy is kept, and how that fares.
    Store,
}

impl Nv {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Network(network) => network.run(client, answer),
            Self::Subnet(subnet) => subnet.run(client, answer),
            Self::Record(record) => record.run(client, answer),
            Self::Provider(provider) => provider.run(client, answer),
            Self::Route(route) => route.run(client, answer),
            Self::Gateway(gateway) => gateway.run(client, answer),
            Self::Export => document::export(client, answer),
            Self::Import(import) => import.run(client, answer),
            Self::Resolve(resolve) => resolve.run(client, answer),
            Self::Store => document::store(client, answer),
        }
    }
}
