//! What extensions want done beside their answers. All of it is bounded; what does not fit is counted and forgotten.

use std::net::SocketAddr;

use crate::PortId;
use crate::extension::stack::MOST_ENABLED;

/// Longest frame that an extension may add, in bytes.
pub const LONGEST_FRAME: usize = 65_553;

/// A frame that an extension adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Injection {
    /// As if this port had sent it, so that its policy is asked. `None` = it is trusted: no port's policy for what it sends is asked, and it is in the
    /// network that its own tag says. What those receive that it goes to is judged by their policy as ever.
    pub from: Option<PortId>,
    /// The frame, without FCS. Its checksums are complete.
    pub frame: Vec<u8>,
}

/// A frame that an extension added, and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// The place in the stack of who added it: of what a port sends, only extensions below are asked about it.
    pub place: u8,
    /// Who added it, and who added the frames for which it was added, as bits by their place: none of them is asked about it, and none may add
    /// another one because of it. So no frame begets others for ever, whichever way extensions see each other's.
    pub makers: u8,
    /// The frame.
    pub injection: Injection,
}

/// What leaves the switch another way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// A UDP datagram from this host.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Bytes for a peer ([`Extension::peers`](super::Extension::peers)). Of one who is not connected they are forgotten; one who does not read
    /// what he is sent is hung up on.
    Stream {
        /// Its number.
        peer: u8,
        /// What to send.
        bytes: Vec<u8>,
        /// And after that so many first bytes of the frame that is being asked about, as its receiver would get it (checksums complete), or
        /// zeros beyond its end. Only while a port's own frame is asked about; else such an output is refused.
        frame: u32,
    },
    /// The stream to a peer ends, after what was said to it; it is dialled again.
    HangUp {
        /// Its number.
        peer: u8,
    },
    /// A line for the operator ([`crate::event::Event::ExtensionLog`]).
    Log(String),
}

/// The list of what is wanted by those who were asked since it was last emptied: once for each burst, and for each tick of one instance.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    injected: Vec<Added>,
    outputs: Vec<(u8, Output)>,
    refresh: bool,
    /// By place in the stack.
    refused: [u32; MOST_ENABLED],
    /// The place in the stack of who is being asked.
    now: u8,
    /// [`Added::makers`] of the frames that are asked about.
    makers: u8,
    /// An output is to have bytes of the frame that is being asked about.
    lacks_frame: bool,
}

impl Effects {
    /// Frames that may be added in one burst or tick.
    pub const MOST_INJECTED: usize = 16;

    /// Outputs of one burst or tick.
    pub const MOST_OUTPUTS: usize = 64;

    /// Adds a frame. False = it is too long, too short for an Ethernet header, there are too many already, or it is added because of a frame that
    /// goes back to the same extension.
    pub fn inject(&mut self, injection: Injection) -> bool {
        self.add(0, injection)
    }

    fn add(&mut self, makers: u8, injection: Injection) -> bool {
        let (len, one) = (injection.frame.len(), 1u8.checked_shl(self.now.into()).unwrap_or(0));
        let fits = self.injected.len() < Self::MOST_INJECTED
            && (14..=LONGEST_FRAME).contains(&len)
            && self.makers & one == 0;
        if fits {
            let makers = makers | self.makers | one;
            self.injected.push(Added { place: self.now, makers, injection });
        } else {
            self.refuse(1);
        }
        fits
    }

    /// Whether a frame more could be added.
    pub fn has_room(&self) -> bool {
        self.injected.len() < Self::MOST_INJECTED
    }

    /// Sends or says something. False = there is too much already.
    pub fn output(&mut self, output: Output) -> bool {
        let fits = self.outputs.len() < Self::MOST_OUTPUTS;
        if fits {
            self.lacks_frame |= matches!(output, Output::Stream { frame: 1.., .. });
            self.outputs.push((self.now, output));
        } else {
            self.refuse(1);
        }
        fits
    }

    /// Answers that were given for whole flows stand no longer: all extensions are asked again.
    pub fn refresh(&mut self) {
        self.refresh = true;
    }

    /// Adds what is wanted after this, as far as there is room.
    pub fn append(&mut self, mut later: Self) {
        let (injected, outputs) = (later.take_injected(), later.take_outputs());
        for Added { place, makers, injection } in injected {
            self.begin(usize::from(place));
            self.add(makers, injection);
        }
        for (place, output) in outputs {
            self.begin(usize::from(place));
            self.output(output);
        }
        self.refresh |= later.refresh;
        for (sum, more) in self.refused.iter_mut().zip(later.refused) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Whether somebody wants to send bytes of the frame that was asked about: [`Effects::give_frame`] is to be called before the next one is.
    #[inline]
    pub fn lacks_frame(&self) -> bool {
        self.lacks_frame
    }

    /// Gives the frame that was asked about to those who want to send it.
    pub fn give_frame(&mut self, whole: &[u8]) {
        self.lacks_frame = false;
        for (_, output) in &mut self.outputs {
            if let Output::Stream { bytes, frame, .. } = output {
                let wanted = std::mem::take(frame) as usize;
                let end = bytes.len() + wanted;
                bytes.extend_from_slice(whole.get(..wanted).unwrap_or(whole));
                bytes.resize(end, 0);
            }
        }
    }

    /// Nothing is wanted.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.injected.is_empty()
            && self.outputs.is_empty()
            && !self.refresh
            && self.refused == [0; MOST_ENABLED]
    }

    /// The extension at this place of the stack is asked from here on.
    pub fn begin(&mut self, place: usize) {
        self.now = place as u8;
    }

    /// From here on extensions are asked about frames that these made ([`Added::makers`]); 0 = about others.
    pub fn descend(&mut self, makers: u8) {
        self.makers = makers;
    }

    /// The same makers.
    pub fn makers(&self) -> u8 {
        self.makers
    }

    /// The frames that were added; they are not in here any more.
    pub fn take_injected(&mut self) -> Vec<Added> {
        std::mem::take(&mut self.injected)
    }

    /// The outputs and the places in the stack of those who want them; they are not in here any more.
    pub fn take_outputs(&mut self) -> Vec<(u8, Output)> {
        self.lacks_frame = false;
        std::mem::take(&mut self.outputs)
    }

    /// Whether answers stand no longer; false the next time.
    pub fn take_refresh(&mut self) -> bool {
        std::mem::take(&mut self.refresh)
    }

    /// How much did not fit since the last call, by place in the stack.
    pub fn take_refused(&mut self) -> impl Iterator<Item = (u8, u64)> {
        let refused = std::mem::take(&mut self.refused);
        let counts = refused.into_iter().zip(0u8..).map(|(count, place)| (place, u64::from(count)));
        counts.filter(|&(_, count)| count != 0)
    }

    /// So many things were not even tried.
    pub(crate) fn refuse(&mut self, things: u32) {
        if let Some(count) = self.refused.get_mut(usize::from(self.now)) {
            *count = count.saturating_add(things);
        }
    }
}
