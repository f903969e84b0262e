//! Who may call: root, the switch's own user, and members of `--api-group`.
//!
//! The socket's mode is the first gate (0600, or 0660 with the group), which the kernel keeps. This is the second one, by
//! the peer's credentials as the kernel noted them at connect: it also holds when somebody changed the mode, and it gives
//! the caller a clear answer.

use tokio::net::unix::UCred;
use vswitch::refusal::{Object, Refusal, Refused};

/// The callers that are allowed.
#[derive(Clone, Debug)]
pub struct Callers {
    /// The switch's own user.
    pub own_uid: u32,
    /// The group as given and its number.
    pub group: Option<(String, u32)>,
}

impl Callers {
    /// Judges one peer.
    pub fn judge(&self, peer: &UCred) -> Result<(), Refused> {
        let supplementary = || peer.pid().map(|pid| groups_of(pid, peer.uid())).unwrap_or_default();
        if self.allows(peer.uid(), peer.gid(), supplementary) {
            return Ok(());
        }
        let group = self.group.as_ref().map(|(name, _)| name.clone());
        Err(Refusal::PermissionDenied { uid: peer.uid(), group }.of(Object::Caller))
    }

    fn allows(&self, uid: u32, gid: u32, supplementary: impl FnOnce() -> Vec<u32>) -> bool {
        let Some((_, group)) = &self.group else { return uid == 0 || uid == self.own_uid };
        uid == 0 || uid == self.own_uid || gid == *group || supplementary().contains(group)
    }
}

/// The supplementary groups of process `pid`, as long as it still is one of user `uid`.
fn groups_of(pid: i32, uid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().filter_map(|n| n.parse().ok()).collect()
    };
    // The second number of `Uid:` is the effective one, which is what the kernel noted at connect.
    if numbers("Uid:").get(1) == Some(&uid) { numbers("Groups:") } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_own_user_and_members_of_the_group_may_call_and_nobody_else() {
        let alone = Callers { own_uid: 500, group: None };
        let grouped = Callers { own_uid: 500, group: Some(("net".into(), 70)) };
        let may = |c: &Callers, uid, gid, more: &[u32]| c.allows(uid, gid, || more.to_vec());
        for c in [&alone, &grouped] {
            assert!(may(c, 0, 0, &[]));
            assert!(may(c, 500, 1, &[]));
            assert!(!may(c, 65534, 65534, &[1, 2]));
        }
        assert!(may(&grouped, 65534, 70, &[]));
        assert!(may(&grouped, 65534, 1, &[5, 70]));
        assert!(!may(&alone, 65534, 70, &[70]));
    }

    #[test]
    fn groups_of_a_process_of_another_user_do_not_count() {
        let pid = std::process::id().cast_signed();
        let own = nix::unistd::geteuid().as_raw();
        assert_eq!(groups_of(pid, own + 1), Vec::<u32>::new());
    }
}
