/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io_faults: an engine for io.h that does its work with plain system calls and fails on command.
 * Included by unit tests; set io_faults before io_engine_new(..., &io_faults_ops, ...).
 *
 * It can shorten, fail, tear (a write that fails has written its first half), interrupt,
 * reorder completions, and refuse to take more (EAGAIN at push and submit).
 */
#ifndef REPROTECT_TESTS_IO_FAULTS_H
#define REPROTECT_TESTS_IO_FAULTS_H

#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Counts are from 1; 0 switches a fault off. */
static struct io_faults {
	unsigned long fail_at;	     /* this step fails, and all after it if fail_on */
	bool fail_on;
	int error;		     /* with this (negative errno); 0: -EIO */
	int fail_op;		     /* only steps of this enum io_op; -1: of any */
	bool torn;		     /* a failing write does its first half */
	unsigned short_every;	     /* every n-th read or write moves half, in whole sectors */
	unsigned interrupt_every;    /* every n-th step returns EINTR */
	unsigned push_again_every;   /* every n-th push says EAGAIN */
	unsigned submit_again_every; /* every n-th submit says EAGAIN */
	bool reorder;		     /* completions come newest first */
	bool no_zero_range, no_punch; /* IO_ZERO has to find another way */
	void (*before)(const struct io_request *request, uint64_t bytes); /* a step: for tests that stop there */
	/* What happened. */
	unsigned long pushes, submits, steps, reads, writes, syncs, zeros, most_in_flight;
} io_faults = { .fail_op = -1 };

struct io_faults_context {
	struct io_request **queue;
	unsigned depth, used;
	unsigned submitted; /* of the queue */
	int eventfd;
};

static inline int io_faults_open(unsigned depth, int eventfd, void **context)
{
	struct io_faults_context *faults = calloc(1, sizeof(*faults));

	if (!faults)
		return -ENOMEM;
	faults->queue = calloc(depth, sizeof(struct io_request *));
	if (!faults->queue) {
		free(faults);
		return -ENOMEM;
	}
	faults->depth = depth;
	faults->eventfd = eventfd;
	*context = faults;
	return 0;
}

static inline int io_faults_push(void *context, struct io_request *request)
{
	struct io_faults_context *faults = context;

	io_faults.pushes++;
	if (io_faults.push_again_every && io_faults.pushes % io_faults.push_again_every == 0)
		return -EAGAIN;
	if (faults->used == faults->depth)
		return -EAGAIN;
	faults->queue[faults->used++] = request;
	if (faults->used > io_faults.most_in_flight)
		io_faults.most_in_flight = faults->used;
	return 0;
}

static inline int io_faults_submit(void *context)
{
	struct io_faults_context *faults = context;

	if (faults->submitted == faults->used)
		return 0;
	io_faults.submits++;
	if (io_faults.submit_again_every && io_faults.submits % io_faults.submit_again_every == 0)
		return -EAGAIN;
	faults->submitted = faults->used;
	return eventfd_write(faults->eventfd, 1) ? -errno : 0;
}

static inline int64_t io_faults_zero(const struct io_request *request, uint64_t bytes)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	io_faults.zeros++;
	if (request->zero_way == IO_ZERO_RANGE) {
		if (io_faults.no_zero_range)
			return -EOPNOTSUPP;
		mode = FALLOC_FL_ZERO_RANGE;
	} else if (io_faults.no_punch) {
		return -EOPNOTSUPP;
	}
	return fallocate(request->fd, mode, (off_t)(request->offset + request->moved),
			 (off_t)bytes) ? -errno : 0;
}

static inline int64_t io_faults_step(struct io_request *request)
{
	uint64_t bytes = io_step_bytes(request);
	off_t offset = (off_t)(request->offset + request->moved);
	bool fails, matches = io_faults.fail_op < 0 || io_faults.fail_op == (int)request->op;
	ssize_t moved;

	if (io_faults.before)
		io_faults.before(request, bytes);
	if (matches)
		io_faults.steps++;
	fails = matches && io_faults.fail_at &&
		(io_faults.steps == io_faults.fail_at ||
		 (io_faults.fail_on && io_faults.steps > io_faults.fail_at));
	if (fails) {
		if (io_faults.torn && request->op == IO_WRITE && bytes >= 1024 &&
		    pwrite(request->fd, io_step_data(request), bytes / 2 / 512 * 512, offset) < 0)
			return -errno;
		return io_faults.error ? io_faults.error : -EIO;
	}
	if (io_faults.interrupt_every && io_faults.steps % io_faults.interrupt_every == 0)
		return -EINTR;
	if (request->op == IO_SYNC) {
		io_faults.syncs++;
		return fdatasync(request->fd) ? -errno : 0;
	}
	if (request->op == IO_ZERO && request->zero_way != IO_ZERO_WRITE)
		return io_faults_zero(request, bytes);
	if (io_faults.short_every && bytes >= 1024 && io_faults.steps % io_faults.short_every == 0)
		bytes = bytes / 2 / 512 * 512;
	if (request->op == IO_READ) {
		io_faults.reads++;
		moved = pread(request->fd, io_step_data(request), bytes, offset);
	} else {
		io_faults.writes++;
		moved = pwrite(request->fd, io_step_data(request), bytes, offset);
	}
	return moved < 0 ? -errno : moved;
}

static inline int io_faults_reap(void *context, struct io_completion *completions, unsigned max)
{
	struct io_faults_context *faults = context;
	unsigned count = 0;

	while (faults->submitted && count < max) {
		unsigned at = io_faults.reorder ? faults->submitted - 1 : 0;
		struct io_request *request = faults->queue[at];

		for (unsigned i = at + 1; i < faults->used; i++)
			faults->queue[i - 1] = faults->queue[i];
		faults->used--;
		faults->submitted--;
		completions[count].request = request;
		completions[count++].result = io_faults_step(request);
	}
	if (faults->submitted && eventfd_write(faults->eventfd, 1))
		return -errno;
	return (int)count;
}

static inline void io_faults_close(void *context)
{
	struct io_faults_context *faults = context;

	free(faults->queue);
	free(faults);
}

static const struct io_ops io_faults_ops __attribute__((unused)) = {
	.name = "faults",
	.open = io_faults_open,
	.push = io_faults_push,
	.submit = io_faults_submit,
	.reap = io_faults_reap,
	.close = io_faults_close,
};

#endif
