//! The switch that moves.
