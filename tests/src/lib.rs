//! Scripted front ends and helpers for the tests.
