//! Drops privileges: the user before any socket is opened, the capabilities after.
//!
//! The kernel lets sockets share a port only among those of one effective user, so the first ones
//! are opened as the user that later reloads have. Capabilities belong to a thread: this runs
//! before any shard thread starts, which then inherits what is left; older threads call [`follow`].
//! Without privileges it does nothing.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::Boot;
use crate::config::error::{ConfigError, Fault, Origin};
use crate::model::{Backend, ClientAddress, Snapshot};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, fchown, geteuid, initgroups, setgroups, setresgid, setresuid};

/// The user and group to run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name or number (`-u`).
    pub user: Option<String>,
    /// Group name or number (`-g`); by default the user's own.
    pub group: Option<String>,
}

impl Identity {
    const fn changes(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }
}

/// Checks that there are the user and the group that a start would run as.
///
/// # Errors
/// What there is not.
pub fn known(boot: &Boot) -> Result<(), Vec<ConfigError>> {
    let user = boot.user.as_deref().map(|user| find_user(user).map(drop));
    let group = boot.group.as_deref().map(|group| find_group(group).map(drop));
    let wrong = [user, group].into_iter().flatten().filter_map(Result::err);
    let wrong = wrong.map(|why| ConfigError::new(&Origin::command_line(), "", Fault::Note(why)));
    let wrong: Vec<ConfigError> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Switches to `identity` with all capabilities in effect, to open sockets; [`shed`] must follow.
///
/// # Errors
/// The user, group or capability that could not be had, human-readable.
pub fn assume(identity: &Identity) -> Result<(), String> {
    if !identity.changes() {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err("-u and -g need to be started as root".into());
    }
    become_identity(identity)?;
    // The change of user left them permitted, but none effective.
    caps::read(None, CapSet::Permitted)
        .and_then(|held| caps::set(None, CapSet::Effective, &held))
        .map_err(|e| format!("keeping capabilities: {e}"))
}

/// Gives an inherited socket to the current user, and lets new ones share its port: one for a part of its
/// address, as a later configuration may have it.
pub fn own(socket: &impl AsFd) {
    if let Err(e) = socket2::SockRef::from(socket).set_reuse_port(true) {
        tracing::debug!(error = %e, "cannot share the port of an inherited socket");
    }
    if let Err(e) = fchown(socket.as_fd(), Some(geteuid()), None) {
        tracing::debug!(error = %e, "cannot change the owner of an inherited socket");
    }
}

/// Drops all capabilities except those needed later: to open a port below 1024 and, with `raw`, to
/// bind to an interface or to a foreign address (`IP_TRANSPARENT`).
///
/// # Errors
/// The kernel's, human-readable.
pub fn shed(identity: &Identity, raw: bool) -> Result<(), String> {
    let mut keep = kept(raw);
    if !identity.changes() && geteuid().is_root() {
        keep.extend(kept_by_root());
    }
    let held = caps::read(None, CapSet::Permitted).map_err(|e| format!("capabilities: {e}"))?;
    #[expect(clippy::disallowed_methods, reason = "from a set to a set")]
    let keep: CapsHashSet = held.intersection(&keep).copied().collect();
    let failed = |e| format!("dropping capabilities: {e}");
    // Programs of health checks must not inherit any.
    clear_inherited();
    caps::set(None, CapSet::Effective, &keep).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &keep).map_err(failed)?;
    SHED.store(true, Relaxed);
    Ok(())
}

/// The control thread has dropped its capabilities.
static SHED: AtomicBool = AtomicBool::new(false);

/// Drops all capabilities of the calling thread once [`shed`] has run: before that, changing the
/// user of the whole process needs them in every thread. Returns whether it did.
#[must_use]
pub fn follow() -> bool {
    let is_time = SHED.load(Relaxed);
    if is_time {
        clear_inherited();
        for set in [CapSet::Effective, CapSet::Permitted] {
            // Dropping is always allowed.
            let _ = caps::clear(None, set);
        }
    }
    is_time
}

/// Drops the capabilities of the calling thread that starting programs does not need, once [`shed`]
/// has run.
pub fn follow_to_start_programs() {
    if !SHED.load(Relaxed) {
        return;
    }
    // What is permitted is inherited neither way.
    clear_inherited();
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let needed = HashSet::from([Capability::CAP_SETUID, Capability::CAP_SETGID]);
    #[expect(clippy::disallowed_methods, reason = "from a set to a set")]
    let keep: CapsHashSet = held.intersection(&needed).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        // Dropping is always allowed.
        let _ = caps::set(None, set, &keep);
    }
}

/// Returns the user and group of health-check programs where we may choose: the `-u` user, or
/// `nobody`. `None` where we may not; they then run as ourselves.
#[must_use]
pub fn runner() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    // By number where the system has no such name: the overflow user, which owns nothing.
    let nobody = User::from_name("nobody").ok().flatten();
    Some(nobody.map_or((65_534, 65_534), |u| (u.uid.as_raw(), u.gid.as_raw())))
}

fn kept(raw: bool) -> CapsHashSet {
    let mut keep = HashSet::from([Capability::CAP_NET_BIND_SERVICE]);
    if raw {
        keep.insert(Capability::CAP_NET_RAW);
    }
    keep
}

/// A process that stays root reads its configuration again at a reload, and changes the user of the
/// programs that it starts and kills.
const fn kept_by_root() -> [Capability; 4] {
    [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL]
}

fn clear_inherited() {
    // Kernels or sandboxes without ambient capabilities have none to clear.
    if let Err(e) = caps::clear(None, CapSet::Ambient) {
        tracing::debug!(error = %e, "no ambient capabilities to clear");
    }
    if let Err(e) = caps::clear(None, CapSet::Inheritable) {
        tracing::debug!(error = %e, "cannot clear inheritable capabilities");
    }
}

fn become_identity(identity: &Identity) -> Result<(), String> {
    let user = identity.user.as_deref().map(find_user).transpose()?;
    let gid = match (&identity.group, &user) {
        (Some(group), _) => Some(find_group(group)?),
        (None, Some(user)) => user.gid,
        (None, None) => None,
    };
    prctl::set_keepcaps(true).map_err(|e| format!("keeping capabilities: {e}"))?;
    if let Some(gid) = gid {
        match user.as_ref().and_then(|u| u.name.as_deref()) {
            Some(name) => initgroups(name, gid),
            None => setgroups(&[gid]),
        }
        .map_err(|e| format!("supplementary groups: {e}"))?;
        setresgid(gid, gid, gid).map_err(|e| format!("group {gid}: {e}"))?;
    }
    if let Some(FoundUser { uid, .. }) = user {
        setresuid(uid, uid, uid).map_err(|e| format!("user {uid}: {e}"))?;
    }
    prctl::set_keepcaps(false).map_err(|e| format!("keeping capabilities: {e}"))
}

#[derive(Debug)]
struct FoundUser {
    uid: Uid,
    gid: Option<Gid>,
    name: Option<CString>,
}

fn find_user(text: &str) -> Result<FoundUser, String> {
    let by_name = User::from_name(text).map_err(|e| format!("user {text}: {e}"))?;
    let number = text.parse().ok().map(Uid::from_raw);
    let by_number = || number.and_then(|uid| User::from_uid(uid).ok().flatten());
    if let Some(user) = by_name.or_else(by_number) {
        let name = CString::new(user.name).ok();
        return Ok(FoundUser { uid: user.uid, gid: Some(user.gid), name });
    }
    // A number without a name has no group in the database: it is its own.
    let uid = number.ok_or_else(|| format!("there is no user {text}"))?;
    Ok(FoundUser { uid, gid: Some(Gid::from_raw(uid.as_raw())), name: None })
}

fn find_group(text: &str) -> Result<Gid, String> {
    let by_name = Group::from_name(text).map_err(|e| format!("group {text}: {e}"))?;
    by_name
        .map(|g| g.gid)
        .or_else(|| text.parse().ok().map(Gid::from_raw))
        .ok_or_else(|| format!("there is no group {text}"))
}

/// Returns whether sockets need CAP_NET_RAW: bound to an interface, or to clients' addresses.
#[must_use]
pub fn needs_raw_sockets(snapshot: &Snapshot) -> bool {
    let far = |b: &Backend| b.source_interface.is_some() || b.client_address == ClientAddress::Transparent;
    snapshot.listeners.iter().any(|l| l.interface.is_some())
        || snapshot.backends.iter().flatten().any(|b| far(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let root = find_user("root").expect("root");
        assert_eq!((root.uid.as_raw(), root.gid.map(Gid::as_raw)), (0, Some(0)));
        assert_eq!(find_user("0").expect("root by number").name, root.name);
        let unknown = find_user("4000000001").expect("any number");
        assert_eq!((unknown.uid.as_raw(), unknown.name), (4_000_000_001, None));
        assert_eq!(find_user("no such user").expect_err("a word"), "there is no user no such user");
        assert_eq!(find_group("root").expect("root").as_raw(), 0);
        assert_eq!(find_group("4242").expect("any number").as_raw(), 4242);
        find_group("no such group").expect_err("a word");
    }

    #[test]
    fn a_check_finds_who_is_not_there() {
        let boot = |user: Option<&str>, group: Option<&str>| {
            let mut boot = crate::config::tests::good("").1.boot;
            (boot.user, boot.group) = (user.map(str::to_owned), group.map(str::to_owned));
            let wrong = known(&boot).err().unwrap_or_default();
            wrong.iter().map(|error| error.fault.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(boot(None, None), [""; 0]);
        assert_eq!(boot(Some("root"), Some("4242")), [""; 0]);
        assert_eq!(boot(Some("no one"), Some("none")), ["there is no user no one", "there is no group none"]);
    }

    #[test]
    fn no_identity_changes_nothing() {
        let who = geteuid();
        assume(&Identity::default()).expect("nothing to do");
        let unknown = Identity { user: Some("no such user".into()), group: None };
        let refused = assume(&unknown).expect_err("an unknown user");
        let expected = if who.is_root() {
            "there is no user no such user"
        } else {
            "-u and -g need to be started as root"
        };
        assert_eq!((refused.as_str(), geteuid()), (expected, who));
    }

    #[test]
    fn dropped_capabilities_are_neither_effective_nor_permitted() {
        // Capabilities belong to a thread: those of the other tests stay.
        let thread = std::thread::spawn(|| {
            let held = caps::read(None, CapSet::Permitted).expect("capabilities");
            let other = Identity { user: Some("other".into()), group: None };
            shed(&other, true).expect("to give up is always allowed");
            let left: CapsHashSet = held.intersection(&kept(true)).copied().collect();
            assert_eq!(caps::read(None, CapSet::Effective).expect("effective"), left);
            assert_eq!(caps::read(None, CapSet::Permitted).expect("permitted"), left);
        });
        thread.join().expect("the thread's assertions");
    }

    #[test]
    fn capabilities_are_kept_only_for_reloads() {
        assert_eq!(kept(false), HashSet::from([Capability::CAP_NET_BIND_SERVICE]));
        assert!(kept(true).contains(&Capability::CAP_NET_RAW));
    }
}
