// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * freeze: see freeze.h. Two pipes to the helper: commands down ('T' thaw, 'K' keep; its end
 * means thaw), reports up (struct report).
 */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "util.h"

enum freeze_state { FREEZE_FREEZING, FREEZE_FROZEN, FREEZE_THAWING, FREEZE_KEPT, FREEZE_DONE };

struct report {
	char what; /* 'F' frozen, 'E' failed to, 'D' all thawed */
	int index, error;
};

struct freeze {
	enum freeze_state state;
	struct mount_entry *list;
	size_t count, frozen;
	const struct freeze_hooks *hooks;
	void *user;
	pid_t pid;
	int commands, reports;
	sd_event_source *source, *timer;
};

/* The helper. */

static void helper_report(int fd, char what, size_t index, int error)
{
	struct report report = { what, (int)index, error };
	ssize_t n;

	do {
		n = write(fd, &report, sizeof(report));
	} while (n < 0 && errno == EINTR);
	/* Nobody reads any more: the command pipe says so too. */
}

/* Wait up to @ms for a command: 'T', 'K', or 0 when none came. */
static char helper_command(int fd, int64_t ms)
{
	struct pollfd poll_fd = { fd, POLLIN, 0 };
	char c = 'T';

	if (poll(&poll_fd, 1, ms > INT32_MAX ? INT32_MAX : (int)ms) <= 0)
		return 0;
	return read(fd, &c, 1) == 1 ? c : 'T';
}

static int thaw_fd(int fd)
{
	/* EINVAL: is not frozen. */
	return ioctl(fd, FITHAW, 0) < 0 && errno != EINVAL ? -errno : 0;
}

static void __attribute__((noreturn)) helper(const struct freeze *freeze, int commands, int reports,
					     uint64_t limit_ms)
{
	uint64_t end = util_now_ms() + limit_ms;
	int fds[MOUNTS_MAX];
	size_t frozen = 0, i;
	char command = 0;
	int rc = 0;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN); /* who stops the agent, ends the pipe */
	signal(SIGINT, SIG_IGN);
	/* Nothing of the agent's stays open here, not its connection, not the other pipe ends. */
	commands = fcntl(commands, F_DUPFD, 64);
	reports = fcntl(reports, F_DUPFD, 64);
	if (commands < 0 || reports < 0 || dup2(commands, 3) < 0 || dup2(reports, 4) < 0)
		_exit(1);
	commands = 3;
	reports = 4;
	close_range(5, ~0u, 0);
	(void)mlockall(MCL_CURRENT); /* a help only: a frozen filesystem can still be read */
	for (i = 0; i < freeze->count; i++) {
		fds[i] = open(freeze->list[i].point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fds[i] < 0)
			fds[i] = open(freeze->list[i].point, O_RDONLY | O_CLOEXEC);
		if (fds[i] < 0) {
			helper_report(reports, 'E', i, errno);
			command = 'T';
			break;
		}
	}
	for (i = 0; !command && i < freeze->count; i++) {
		command = helper_command(commands, 0);
		if (command)
			break;
		if (ioctl(fds[i], FIFREEZE, 0) < 0) {
			rc = errno;
			/* EBUSY: someone else has frozen it; it would be thawed behind our back. */
			helper_report(reports, 'E', i, rc);
			command = 'T';
			break;
		}
		frozen = i + 1;
		helper_report(reports, 'F', i, 0);
	}
	while (!command) {
		uint64_t now = util_now_ms();

		if (now >= end)
			command = 'T';
		else
			command = helper_command(commands, (int64_t)(end - now));
	}
	rc = 0;
	if (command != 'K')
		for (i = frozen; i-- > 0;)
			if (thaw_fd(fds[i]) < 0)
				rc = errno;
	helper_report(reports, 'D', 0, rc);
	_exit(rc ? 1 : 0);
}

/* The agent's side. */

static void freeze_over(struct freeze *freeze, int rc)
{
	freeze->state = FREEZE_DONE;
	sd_event_source_set_enabled(freeze->timer, SD_EVENT_OFF);
	sd_event_source_set_enabled(freeze->source, SD_EVENT_OFF);
	freeze->hooks->thawed(freeze->user, rc);
}

static void freeze_failed(struct freeze *freeze, size_t index, int rc)
{
	freeze_thaw(freeze);
	freeze->hooks->frozen(freeze->user, rc,
			      index < freeze->count ? freeze->list[index].point : "?");
}

static void freeze_timer(struct freeze *freeze, uint64_t ms)
{
	sd_event_source_set_time_relative(freeze->timer, ms * 1000);
	sd_event_source_set_enabled(freeze->timer, SD_EVENT_ONESHOT);
}

static void freeze_complete(struct freeze *freeze)
{
	freeze->state = FREEZE_FROZEN;
	sd_event_source_set_enabled(freeze->timer, SD_EVENT_OFF);
	freeze->hooks->frozen(freeze->user, 0, NULL);
}

static int on_report(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct freeze *freeze = user;
	struct report report;
	ssize_t n = read(fd, &report, sizeof(report));

	(void)source;
	(void)revents;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n != (ssize_t)sizeof(report)) {
		/* The helper is gone without a word. */
		report = (struct report){ 'D', 0, freeze->state == FREEZE_KEPT ? 0 : ESRCH };
	}
	if (report.what == 'F' && freeze->state == FREEZE_FREEZING) {
		freeze->frozen = (size_t)report.index + 1;
		freeze_timer(freeze, FREEZE_EACH_MS);
		if (freeze->frozen == freeze->count)
			freeze_complete(freeze);
	} else if (report.what == 'E' && freeze->state == FREEZE_FREEZING) {
		freeze_failed(freeze, (size_t)report.index, -report.error);
	} else if (report.what == 'D') {
		if (freeze->state == FREEZE_KEPT)
			sd_event_source_set_enabled(freeze->source, SD_EVENT_OFF);
		else if (freeze->state != FREEZE_DONE)
			freeze_over(freeze, -report.error);
	}
	return 0;
}

static int on_freeze_timer(sd_event_source *source, uint64_t usec, void *user)
{
	struct freeze *freeze = user;

	(void)source;
	(void)usec;
	if (freeze->state == FREEZE_FREEZING && !freeze->count)
		freeze_complete(freeze);
	else if (freeze->state == FREEZE_FREEZING)
		freeze_failed(freeze, freeze->frozen, -ETIME);
	else if (freeze->state == FREEZE_THAWING)
		freeze_over(freeze, -ETIME);
	return 0;
}

static void freeze_command(struct freeze *freeze, char command)
{
	ssize_t n;

	do {
		n = write(freeze->commands, &command, 1);
	} while (n < 0 && errno == EINTR);
	if (n != 1 && errno != EPIPE) /* else it has ended, its report is on the way */
		log_error("freeze helper %d: cannot be told to %s: %s", (int)freeze->pid,
			  command == 'T' ? "thaw" : "end", strerror(errno));
}

void freeze_thaw(struct freeze *freeze)
{
	if (freeze->state != FREEZE_FREEZING && freeze->state != FREEZE_FROZEN)
		return;
	freeze->state = FREEZE_THAWING;
	freeze_command(freeze, 'T');
	freeze_timer(freeze, FREEZE_THAW_MS);
}

void freeze_keep(struct freeze *freeze)
{
	if (freeze->state != FREEZE_FROZEN)
		return;
	freeze->state = FREEZE_KEPT;
	freeze_command(freeze, 'K');
}

void freeze_free(struct freeze *freeze)
{
	if (!freeze)
		return;
	sd_event_source_disable_unref(freeze->source);
	sd_event_source_disable_unref(freeze->timer);
	if (freeze->commands >= 0)
		close(freeze->commands);
	if (freeze->reports >= 0)
		close(freeze->reports);
	/* A helper that is stuck in FIFREEZE thaws and ends by itself; it is not waited for. */
	if (freeze->pid > 0)
		waitpid(freeze->pid, NULL, WNOHANG);
	free(freeze->list);
	free(freeze);
}

int freeze_start(struct freeze **out, sd_event *event, const struct mount_entry *list, size_t count,
		 uint64_t limit_ms, const struct freeze_hooks *hooks, void *user)
{
	struct freeze *freeze = calloc(1, sizeof(*freeze));
	int down[2] = { -1, -1 }, up[2] = { -1, -1 }, rc;

	if (!freeze)
		return -ENOMEM;
	freeze->commands = freeze->reports = -1;
	freeze->hooks = hooks;
	freeze->user = user;
	freeze->count = count;
	freeze->list = malloc((count ? count : 1) * sizeof(*list));
	if (!freeze->list || count > MOUNTS_MAX) {
		freeze_free(freeze);
		return -ENOMEM;
	}
	memcpy(freeze->list, list, count * sizeof(*list));
	if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0) {
		rc = -errno;
		goto fail;
	}
	freeze->pid = fork();
	if (freeze->pid < 0) {
		rc = -errno;
		goto fail;
	}
	if (!freeze->pid)
		helper(freeze, down[0], up[1], limit_ms);
	close(down[0]);
	close(up[1]);
	freeze->commands = down[1];
	freeze->reports = up[0];
	fcntl(freeze->reports, F_SETFL, O_NONBLOCK);
	rc = sd_event_add_io(event, &freeze->source, freeze->reports, EPOLLIN, on_report, freeze);
	if (rc >= 0)
		rc = sd_event_add_time_relative(event, &freeze->timer, CLOCK_BOOTTIME,
						count ? FREEZE_EACH_MS * 1000ull : 0, 1000,
						on_freeze_timer, freeze);
	if (rc < 0) {
		freeze_free(freeze);
		return rc;
	}
	*out = freeze;
	return 0;
fail:
	for (int i = 0; i < 2; i++) {
		if (down[i] >= 0)
			close(down[i]);
		if (up[i] >= 0)
			close(up[i]);
	}
	freeze_free(freeze);
	return rc;
}

size_t freeze_thaw_list(const struct mount_entry *list, size_t count)
{
	size_t failed = 0;

	for (size_t i = count; i-- > 0;) {
		CLEANUP_FD int fd = open(list[i].point, O_RDONLY | O_CLOEXEC);
		int rc = fd < 0 ? -errno : thaw_fd(fd);

		if (rc) {
			log_error("filesystem %s: cannot thaw: %s (by hand: fsfreeze -u %s)",
				  list[i].point, strerror(-rc), list[i].point);
			failed++;
		}
	}
	return failed;
}
