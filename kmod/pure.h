/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The few kernel primitives that the pure units (map, extent, epoch, scsi_cdb,
 * store_format, store_state) need. In the kernel they are the kernel's own; in
 * user space, where the unit tests compile the same sources, they are stood in
 * for here.
 */
#ifndef BLKCBT_PURE_H
#define BLKCBT_PURE_H

#ifdef __KERNEL__

#include <linux/types.h>
#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/build_bug.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "fault.h"

static inline unsigned long *blkcbt_pure_page_alloc(void)
{
	if (blkcbt_fault_page())
		return NULL;
	return (unsigned long *)get_zeroed_page(GFP_ATOMIC | __GFP_NOWARN);
}

static inline void blkcbt_pure_page_free(unsigned long *page)
{
	free_page((unsigned long)page);
}

static inline void *blkcbt_pure_zalloc(size_t bytes)
{
	return kvzalloc(bytes, GFP_KERNEL);
}

static inline void blkcbt_pure_free(void *p)
{
	kvfree(p);
}

static inline void blkcbt_pure_or(unsigned long *word, unsigned long bits)
{
	atomic_long_or((long)bits, (atomic_long_t *)word);
}

static inline u64 blkcbt_pure_div(u64 n, u32 by)
{
	return div_u64(n, by);
}

static inline void blkcbt_pure_wmb(void)
{
	/* Pairs with whatever the caller says. */
	smp_wmb();
}

#else /* user space */

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/cdefs.h>
#include <linux/types.h>

#define u8	__u8
#define u32	__u32
#define u64	__u64

struct blkcbt_pure_atomic {
	long counter;
};

#define atomic_long_t	struct blkcbt_pure_atomic
#define atomic64_t	struct blkcbt_pure_atomic

#define PAGE_SHIFT	12
#define PAGE_SIZE	4096UL
#define BITS_PER_LONG	((unsigned int)(8 * sizeof(long)))
#define BIT_WORD(nr)	((nr) / BITS_PER_LONG)
#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)
#define READ_ONCE(x)	__atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define cond_resched()	do { } while (0)
#define min_t(type, a, b) ({ type one = (a), other = (b); one < other ? one : other; })
#define __ffs(w)	((unsigned int)__builtin_ctzl(w))
#define hweight_long(w)	((unsigned int)__builtin_popcountl(w))
#define cmpxchg(p, o, n) __sync_val_compare_and_swap((p), (o), (n))
#define atomic_long_inc(a) ((void)__sync_fetch_and_add(&(a)->counter, 1))
#define atomic_long_dec(a) ((void)__sync_fetch_and_sub(&(a)->counter, 1))
#define atomic_long_read(a) READ_ONCE((a)->counter)
#define atomic64_inc(a)	atomic_long_inc(a)
#define atomic64_read(a) atomic_long_read(a)
#define cpu_to_le32(x)	htole32(x)
#define cpu_to_le64(x)	htole64(x)
#define le32_to_cpu(x)	le32toh(x)
#define le64_to_cpu(x)	le64toh(x)
#define hweight32(w)	((unsigned int)__builtin_popcount(w))

static inline bool is_power_of_2(unsigned long n)
{
	return n && !(n & (n - 1));
}

static inline bool test_bit(unsigned long nr, const unsigned long *p)
{
	return READ_ONCE(p[BIT_WORD(nr)]) >> (nr % BITS_PER_LONG) & 1;
}

static inline void blkcbt_pure_or(unsigned long *word, unsigned long bits)
{
	__sync_fetch_and_or(word, bits);
}

static inline u64 blkcbt_pure_div(u64 n, u32 by)
{
	return n / by;
}

#define blkcbt_pure_wmb()	__sync_synchronize()

static inline void set_bit(unsigned long nr, unsigned long *p)
{
	blkcbt_pure_or(&p[BIT_WORD(nr)], 1UL << (nr % BITS_PER_LONG));
}

static inline void clear_bit(unsigned long nr, unsigned long *p)
{
	__sync_fetch_and_and(&p[BIT_WORD(nr)], ~(1UL << (nr % BITS_PER_LONG)));
}

static inline unsigned long blkcbt_pure_find(const unsigned long *p, unsigned long size,
					     unsigned long from, unsigned long flip)
{
	while (from < size) {
		unsigned long word = (p[BIT_WORD(from)] ^ flip) >> (from % BITS_PER_LONG);

		if (word) {
			from += (unsigned long)__builtin_ctzl(word);
			return from < size ? from : size;
		}
		from = (from / BITS_PER_LONG + 1) * BITS_PER_LONG;
	}
	return size;
}

#define find_next_bit(p, size, from) blkcbt_pure_find((p), (size), (from), 0)
#define find_next_zero_bit(p, size, from) blkcbt_pure_find((p), (size), (from), ~0UL)

/* The test decides which allocation fails: 0 none, 1 every one. */
extern unsigned int blkcbt_test_page_fail;

static inline unsigned long *blkcbt_pure_page_alloc(void)
{
	return blkcbt_test_page_fail ? NULL : (unsigned long *)calloc(1, PAGE_SIZE);
}

static inline void blkcbt_pure_page_free(unsigned long *page)
{
	free(page);
}

static inline void *blkcbt_pure_zalloc(size_t bytes)
{
	return calloc(1, bytes);
}

static inline void blkcbt_pure_free(void *p)
{
	free(p);
}

#endif
#endif /* BLKCBT_PURE_H */
