//! The virtio-net device behind the control protocol's library: what it offers, its configuration space, and what a change means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::epoll::EventSet;

use super::ring::MAX_RING_SIZE;
use super::vring::{self, PortVring, Ram};
use super::{GuestPort, dirty_log, features};

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;
/// Bytes of the configuration space.
const CONFIG_SIZE: usize = 24;

/// The device of one connection.
#[derive(Clone)]
pub(super) struct NetDevice {
    pub(super) port: Arc<GuestPort>,
}

impl NetDevice {
    /// `struct virtio_net_config` (virtio 1.2 §5.1.4); the fields of features that are not offered are zero.
    fn config_space(&self) -> Vec<u8> {
        let spec = &self.port.spec;
        let mut space = Vec::with_capacity(CONFIG_SIZE);
        space.extend_from_slice(&spec.mac.0);
        space.extend_from_slice(&LINK_UP.to_le_bytes());
        space.extend_from_slice(&u16::from(spec.queue_pairs).to_le_bytes());
        space.extend_from_slice(&self.port.mtu().to_le_bytes());
        space.extend_from_slice(&u32::MAX.to_le_bytes()); // speed: unknown
        space.push(0xff); // duplex: unknown
        space.resize(CONFIG_SIZE, 0);
        space
    }
}

impl VhostUserBackend for NetDevice {
    type Bitmap = ();
    type Vring = PortVring;

    fn num_queues(&self) -> usize {
        self.port.queues.len()
    }

    fn max_queue_size(&self) -> usize {
        usize::from(MAX_RING_SIZE)
    }

    fn features(&self) -> u64 {
        self.port.spec.features
    }

    fn acked_features(&self, features: u64) {
        let changed = self.port.features() ^ features;
        if changed == features::LOG_ALL {
            // A migration begins or ends: the rings run on, no frame waits for it.
            self.port.features.store(features, Ordering::Relaxed);
            dirty_log::apply(&self.port, features);
        } else if changed != 0 {
            vring::restart_all(&self.port, || {
                self.port.features.store(features, Ordering::Relaxed);
                dirty_log::apply(&self.port, features);
            });
        }
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        features::protocol()
    }

    fn reset_device(&self) {
        self.port.reset_rings();
        self.port.features.store(0, Ordering::Relaxed);
        dirty_log::apply(&self.port, 0);
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // An empty answer makes the library reply with the error form.
        let (from, space) = (offset as usize, self.config_space());
        from.checked_add(size as usize)
            .and_then(|to| space.get(from..to))
            .map(<[u8]>::to_vec)
            .unwrap_or_default()
    }

    fn update_memory(&self, mem: Ram) -> io::Result<()> {
        vring::set_memory(&self.port, &mem)
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // Our workers own the rings; the library starts no thread for them.
        Vec::new()
    }

    fn handle_event(
        &self,
        _device_event: u16,
        _evset: EventSet,
        _vrings: &[PortVring],
        _thread_id: usize,
    ) -> io::Result<()> {
        Ok(())
    }
}
