/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Fault points. They exist only in a build with BLKCBT_FAULTS (a test build,
 * which says so when it is loaded and in INFO); otherwise every one of them is
 * a constant "no" and leaves no code behind.
 */
#ifndef BLKCBT_FAULT_H
#define BLKCBT_FAULT_H

#include <linux/atomic.h>
#include <linux/compiler.h>
#include <linux/types.h>

#ifdef BLKCBT_FAULTS

extern unsigned int blkcbt_fault_gate_skip;
extern unsigned int blkcbt_fault_audit_blind;
extern unsigned int blkcbt_fault_page_every;
extern unsigned int blkcbt_fault_shim_every;
extern unsigned int blkcbt_fault_cut_late_ms;
extern unsigned int blkcbt_fault_preserve_skip_every;
extern unsigned int blkcbt_fault_preserve_read_every;
extern unsigned int blkcbt_fault_store_write_every;
extern unsigned int blkcbt_fault_store_skip_every;
extern bool blkcbt_fault_store_undrained;
extern bool blkcbt_fault_store_unflushed;
extern bool blkcbt_fault_free_early;
extern bool blkcbt_fault_locks_inverted;
extern atomic_t blkcbt_fault_count;

bool blkcbt_fault_tracepoint(const char *name);

static __always_inline bool blkcbt_fault_every(unsigned int n)
{
	return n && (unsigned int)atomic_inc_return(&blkcbt_fault_count) % n == 0;
}

#define blkcbt_fault_gate()	blkcbt_fault_every(READ_ONCE(blkcbt_fault_gate_skip))
#define blkcbt_fault_page()	blkcbt_fault_every(READ_ONCE(blkcbt_fault_page_every))
#define blkcbt_fault_shim()	blkcbt_fault_every(READ_ONCE(blkcbt_fault_shim_every))
#define blkcbt_fault_blind()	(READ_ONCE(blkcbt_fault_audit_blind) != 0)
#define blkcbt_fault_cut_late()	READ_ONCE(blkcbt_fault_cut_late_ms)
#define blkcbt_fault_preserve_skip() \
	blkcbt_fault_every(READ_ONCE(blkcbt_fault_preserve_skip_every))
#define blkcbt_fault_preserve_read() \
	blkcbt_fault_every(READ_ONCE(blkcbt_fault_preserve_read_every))
#define blkcbt_fault_store()	blkcbt_fault_every(READ_ONCE(blkcbt_fault_store_write_every))
#define blkcbt_fault_store_skip() \
	blkcbt_fault_every(READ_ONCE(blkcbt_fault_store_skip_every))
#define blkcbt_fault_store_drain()	READ_ONCE(blkcbt_fault_store_undrained)
#define blkcbt_fault_store_flush()	READ_ONCE(blkcbt_fault_store_unflushed)
#define blkcbt_fault_early_free()	READ_ONCE(blkcbt_fault_free_early)
#define blkcbt_fault_lock_order()	READ_ONCE(blkcbt_fault_locks_inverted)

#else

#define blkcbt_fault_gate()	false
#define blkcbt_fault_page()	false
#define blkcbt_fault_shim()	false
#define blkcbt_fault_blind()	false
#define blkcbt_fault_cut_late()	0u
#define blkcbt_fault_preserve_skip()	false
#define blkcbt_fault_preserve_read()	false
#define blkcbt_fault_store()	false
#define blkcbt_fault_store_skip()	false
#define blkcbt_fault_store_drain()	false
#define blkcbt_fault_store_flush()	false
#define blkcbt_fault_early_free()	false
#define blkcbt_fault_lock_order()	false
#define blkcbt_fault_tracepoint(name)	false

#endif
#endif /* BLKCBT_FAULT_H */
