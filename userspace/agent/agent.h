/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent: the state that the agent's files share, and who does what with it.
 *
 *	main.c     options, start, end
 *	agent.c    the machine: tick, kernel events, when to cut, what state we are in
 *	disks.c    the group of disks: attach, detach, open, find leftovers
 *	state.c    what is remembered across restarts
 *	stores.c   the disks' crash-safe stores
 *	early.c    the list of disks for the initramfs, and what came of it in this boot
 *	link.c     the connection to the process server
 *	epoch.c    one epoch from cut to commit or abort; points.c whether it is consistent
 *	ship.c     reads the blocks of an epoch and sends them
 *	tag.c      application tags; scripts.c and child.c what they run
 *	failback.c the planned failback
 *	freeze.c   filesystems of both, and mounts.c which they are
 *	snapshot.c a disk as it was, to look at
 *	commands.c the control socket; status.c what it shows
 *
 * One thread. Everything runs from the event loop.
 */
#ifndef REPROTECT_AGENT_H
#define REPROTECT_AGENT_H

#include <jansson.h>
#include <stdarg.h>
#include <systemd/sd-event.h>

#include "config.h"
#include "disk_names.h"
#include "io.h"
#include "slicer.h"
#include "tracker.h"
#include "wire.h"

#define AGENT_TEXT_BYTES 384
#define AGENT_BAD_MAX 64
#define AGENT_BAD_RETRY_MS 60000u
#define AGENT_SLICE_MIN_BYTES (4ull * 1024 * 1024)
#define AGENT_APPLIED_MAX 256 /* epochs spooled and not yet applied that are timed */

struct link;
struct ship;
struct failback;
struct tag_job;
struct snapshot;
struct ship_hooks;

/**
 * struct agent_problem - what is wrong, for people
 * @text: empty: nothing
 */
struct agent_problem {
	char text[AGENT_TEXT_BYTES];
	char remedy[AGENT_TEXT_BYTES];
	uint64_t since_ms; /* wall clock */
};

/**
 * struct agent_store - the crash-safe store of a disk
 * @wanted: as configured: none, auto or a path; empty: none
 * @identity: what the disk is called in it
 * @generation: the least that is believed when it is opened again
 * @device, @offset_bytes: where it begins, for early boot; empty: not known
 */
struct agent_store {
	char wanted[256];
	char identity[BLKCBT_IDENTITY_BYTES + 1];
	uint64_t generation;
	char device[160];
	uint64_t offset_bytes;
	uint64_t retry_ms;
	struct agent_problem problem;
};

/**
 * struct agent_disk - one disk, configured or remembered
 * @active: tracked, open, part of the group
 * @detached: by command; stays so until it is attached again
 * @initial: its first complete pass is not done
 * @cursor_bytes: where the next slice starts
 * @pass_skipped: the pass under way left out unreadable granules
 * @names: what it is found by in early boot; remembered while it is away
 * @cover: what the open epoch holds of it
 * @passed: committing the open epoch completes a pass over the disk
 * @image: what the open consistent epoch is read from, or NULL
 * @pass_ms, @covered_ms: cut times: of the epoch that began the pass under way, and of the state
 *	that the completed passes brought to the other side (0: none yet)
 * @next_pass_ms, @next_covered_ms: the same once the open epoch is committed
 */
struct agent_disk {
	char name[64];
	char device[256];
	uint32_t id;
	uint32_t granule_bytes;
	struct disk_names names;
	struct agent_store store;
	bool active, detached, initial;
	dev_t dev;
	int fd;
	uint64_t kernel_id; /* attachment that @initial is about */
	struct cbt_disk info;
	uint64_t cursor_bytes;
	bool pass_skipped;
	struct slice_cover cover;
	struct tracker_image *image;
	bool passed;
	uint64_t pass_ms, covered_ms, next_pass_ms, next_covered_ms;
	uint64_t bad_bytes[AGENT_BAD_MAX];
	size_t bad_count;
	uint64_t bad_retry_ms;
	uint64_t retry_ms;
	struct agent_problem problem;
};

/**
 * enum epoch_phase - the one epoch that can be open
 *
 *	state      event                       next
 *	NONE       cut, something dirty        SENDING
 *	NONE       cut, nothing dirty          NONE (aborted)
 *	SENDING    END queued                  WAITING
 *	WAITING    the ack that was asked for  NONE (committed)
 *	SENDING,
 *	WAITING    error, link gone, timeout   DRAINING (aborted), NONE when the reads are back
 */
enum epoch_phase { EPOCH_NONE, EPOCH_SENDING, EPOCH_WAITING, EPOCH_DRAINING };

struct agent_epoch {
	enum epoch_phase phase;
	bool open; /* cut in the kernel, neither committed nor aborted */
	uint64_t number, attempt, previous;
	uint32_t flags;
	uint64_t cut_ms; /* CLOCK_BOOTTIME */
	uint64_t deadline_ms;
	struct slice slice;
	bool whole; /* all that was dirty at the cut is in it */
	uint32_t mode;		 /* enum blkcbt_epoch_mode: what it is read as */
	bool exact;		 /* read to its end, and consistent */
	char why[AGENT_TEXT_BYTES]; /* it is fuzzy */
	const char *remedy;
	uint64_t cut_wall_ms, hold_ns, hot_bytes;
	char tag[80]; /* name of its tag, when it has one */
	bool tag_app;
	uint64_t synced_ms; /* once it is applied, all that was dirty at this cut is: 0 never */
};

/* An epoch that is sent and not known to be applied, and what its application brings. */
struct agent_applied {
	uint64_t epoch, synced_ms, cut_wall_ms;
	char tag[80];
	bool app;
};

/* The last tag of its kind that is applied; @epoch 0: none since the start. */
struct agent_tag {
	uint64_t epoch, cut_wall_ms;
	char name[80];
};

/**
 * struct agent_points - what the epochs were, for points.c and status.c
 * @epoch, @exact, @why, @remedy, @hold_ns, @hot_bytes: of the last epoch that was sent
 * @since_ms: wall clock, when @exact or the reason last changed
 * @acked_epoch: last epoch that downstream holds and that was exact
 */
struct agent_points {
	uint64_t epoch;
	bool exact;
	char why[AGENT_TEXT_BYTES];
	const char *remedy;
	uint64_t hold_ns, hot_bytes, since_ms;
	uint64_t consistent_count, fuzzy_count, downgrades;
	uint64_t acked_epoch;
	struct agent_tag crash, app;
};

/**
 * struct agent - all of it
 * @frozen: filesystems are frozen by us: nothing may be written to disk
 * @released: failed back: replication is over until "reprotect resume"
 */
struct agent {
	sd_event *event;
	sd_event_source *tick, *cut_timer, *tracker_source;
	const char *program;
	struct config config;
	const struct tracker_ops *tracker_ops;
	const char *tracker_argument;
	struct tracker *tracker;
	struct agent_problem tracker_problem;
	uint64_t tracker_retry_ms;
	struct cbt_info module;
	uint64_t module_ms; /* when it was asked */
	char machine[40];
	char host[256];
	struct control *control;
	struct io_engine *io;
	struct link *link;
	struct ship *ship;
	struct failback *failback;
	struct tag_job *tag;
	struct snapshot *snapshot;
	uint64_t next_app_ms; /* CLOCK_BOOTTIME; 0: not planned */

	struct agent_disk *disks; /* AGENT_DISKS_MAX */
	size_t disk_count;

	struct agent_epoch epoch;
	struct agent_points points;
	struct slice before;	    /* the epoch before the open one: what is likely to be written again */
	char no_gate[128];	    /* a consistent cut was refused for that reason */
	uint64_t slice_bytes;	    /* now; between the minimum and the configured */
	uint64_t last_number;	    /* highest epoch number used or seen */
	uint64_t chain;		    /* last epoch that downstream holds whole */
	bool holds_all;		    /* since a resync began, until its first commit: all is in the dirty maps */
	uint64_t epoch_cut, epoch_acked, epoch_committed, epoch_applied;
	uint64_t next_cut_ms;
	struct agent_applied waiting[AGENT_APPLIED_MAX];
	size_t waiting_count;
	uint64_t synced_ms;	    /* cut time of the last state that is applied, 0: none yet */
	uint64_t last_cut_bytes;    /* dirty in the last cut */
	uint64_t empty_cuts;	    /* in a row */

	struct agent_problem epoch_problem; /* why the last epoch failed */
	struct agent_problem state_problem; /* the state directory */
	struct agent_problem released_problem;
	json_t *early; /* report of early boot, NULL: there is none */
	bool frozen, released, state_dirty;

	uint64_t sent_bytes, read_bytes; /* since start */
	uint64_t rate_sent, rate_read;	 /* bytes per second, smoothed */
	uint64_t rate_sent_from, rate_read_from, rate_ms;
};

/* agent.c */
int agent_run(struct agent *agent);
/** agent_problem_set - record a problem; logs when it is new. @remedy may be NULL. */
void agent_problem_set(struct agent_problem *problem, const char *remedy, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void agent_problem_clear(struct agent_problem *problem);
/** agent_module - ask the tracker what it can do, and how long it held writers */
void agent_module(struct agent *agent);
/** agent_schedule - cut in @ms from now at the latest */
void agent_schedule(struct agent *agent, uint64_t ms);
/** agent_hold_writes - filesystems are about to be frozen: write nothing to disk, keep messages in memory */
void agent_hold_writes(struct agent *agent);
/** agent_allow_writes - they are thawed: write what was put off */
void agent_allow_writes(struct agent *agent);
/** agent_group_changed - the set of disks is another: abort, say HELLO again */
void agent_group_changed(struct agent *agent);
/** agent_resync - mark all of every disk dirty; @why is logged */
void agent_resync(struct agent *agent, const char *why);
size_t agent_active(const struct agent *agent);
uint64_t agent_dirty_bytes(const struct agent *agent);

/* disks.c */
void disks_setup(struct agent *agent);
/** disks_activate - attach and open what is not yet; true when the group changed */
bool disks_activate(struct agent *agent);
/** disks_refresh - ask the tracker about every disk; true when the group changed */
bool disks_refresh(struct agent *agent);
void disks_close(struct agent *agent);
struct agent_disk *disks_find(struct agent *agent, const char *name_or_device);
struct agent_disk *disks_find_dev(struct agent *agent, dev_t dev);
/** disks_attach - by command; @name, @store may be NULL: the usual */
int disks_attach(struct agent *agent, const char *device, const char *name, uint32_t granule_bytes,
		 const char *store, struct agent_disk **disk, struct agent_problem *problem);
int disks_detach(struct agent *agent, struct agent_disk *disk, bool force,
		 struct agent_problem *problem);

/* state.c */
int state_load(struct agent *agent);
/** state_save - remember now, or when the filesystems are thawed again */
void state_save(struct agent *agent);
int state_lock(struct agent *agent);
#define STATE_DISKS_NAME "disks.json"
/* What is known of a failback that outlives the agent. */
enum state_failback { STATE_FAILBACK_NONE, STATE_FAILBACK_BEGUN, STATE_FAILBACK_DONE };
enum state_failback state_failback_get(struct agent *agent);
int state_failback_set(struct agent *agent, enum state_failback failback);

/* epoch.c */
/** epoch_cut - begin an epoch now if that is possible */
void epoch_cut(struct agent *agent);
/** epoch_limit_bytes - most that fits into one epoch */
uint64_t epoch_limit_bytes(const struct agent *agent);
/** epoch_possible - nothing is on its way, and nothing keeps an epoch from beginning */
bool epoch_possible(const struct agent *agent);
/** epoch_cut_frozen - cut at once, for a tag: 0, the epoch is consistent so far; epoch_go() sends it */
int epoch_cut_frozen(struct agent *agent);
void epoch_go(struct agent *agent);
/** epoch_number - a number that was never used */
uint64_t epoch_number(struct agent *agent);
/** epoch_verify - begin the final epoch, that compares the whole of every disk. 0 or negative errno. */
int epoch_verify(struct agent *agent);
void epoch_fail(struct agent *agent, const char *remedy, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/** epoch_abandon - abort without blame (the group changed, we end) */
void epoch_abandon(struct agent *agent);
void epoch_ack(struct agent *agent, const struct wire_frame *frame, const json_t *json);
void epoch_tick(struct agent *agent, uint64_t now_ms);
/** epoch_chain_check - what downstream holds against what the kernel forgot */
void epoch_chain_check(struct agent *agent, uint64_t last_complete, uint64_t last_applied,
		       uint64_t max_epoch);

extern const struct ship_hooks epoch_ship_hooks;

/* failback.c */
int failback_start(struct agent *agent, uint64_t timeout_ms, bool thaw, struct agent_problem *problem);
void failback_stop(struct agent *agent, const char *why);
void failback_tick(struct agent *agent, uint64_t now_ms);
/* What epoch.c and link.c tell a failback under way. */
void failback_cut_done(struct agent *agent, uint64_t dirty_bytes);
void failback_committed(struct agent *agent);
void failback_epoch_failed(struct agent *agent, const char *text, const char *remedy);
void failback_final_ack(struct agent *agent, bool released, const json_t *json);
bool failback_active(const struct agent *agent);
/** failback_eager - cut again at once, do not wait for the interval */
bool failback_eager(const struct agent *agent);
/** failback_step - asked before a cut: true when the final epoch was begun instead */
bool failback_step(struct agent *agent);
/** failback_pause_ms - between final cuts; UINT64_MAX: no say */
uint64_t failback_pause_ms(const struct agent *agent);
/** failback_holds - no ordinary cut now */
bool failback_holds(const struct agent *agent);
json_t *failback_json(const struct agent *agent);
void failback_free(struct agent *agent);
int failback_resume(struct agent *agent, struct agent_problem *problem);

/* early.c */
/** early_start - read the report of this boot, say what it says */
void early_start(struct agent *agent);
/** early_save - write the list for the initramfs anew if it has changed */
void early_save(struct agent *agent);
/** early_adopt - detach what early boot attached and was detached by command since the initramfs was made */
void early_adopt(struct agent *agent);
/** early_stale - the initramfs is older than the list: the command that helps, or NULL */
const char *early_stale(const struct agent *agent);
/** early_json - for the status; NULL: this machine has no early attaching */
json_t *early_json(const struct agent *agent);

/* commands.c, status.c */
json_t *commands_handle(const char *command, const json_t *request, void *user);
json_t *status_json(struct agent *agent);
const char *status_state(struct agent *agent, const struct agent_problem **problem);

#endif
