// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main: options, start and end of reprotect-agent. Everything between is in agent.c.
 */
#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "agent.h"
#include "control.h"
#include "link.h"
#include "log.h"
#include "points.h"
#include "ship.h"
#include "snapshot.h"
#include "tag.h"
#include "util.h"

#define IO_DEPTH 128u

const char *argp_program_version = "reprotect-agent " REPROTECT_VERSION;
const char *argp_program_bug_address;

struct options {
	const char *config, *module, *test_tracker;
	bool check, debug;
};

enum { OPTION_MODULE = 256, OPTION_CHECK, OPTION_DEBUG, OPTION_TEST_TRACKER };

static const struct argp_option argp_table[] = {
	{ "config", 'c', "FILE", 0, "Read FILE instead of " AGENT_CONFIG_PATH, 0 },
	{ "check-config", OPTION_CHECK, NULL, 0, "Check the configuration and end", 0 },
	{ "module", OPTION_MODULE, "PATH", 0, "Load this blkcbt.ko instead of the installed one", 0 },
	{ "debug", OPTION_DEBUG, NULL, 0, "Log more", 0 },
#ifdef REPROTECT_TESTING
	{ "test-tracker", OPTION_TEST_TRACKER, "DIR", 0, "Track changes in files in DIR (tests only)",
	  0 },
#endif
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case 'c':
		options->config = arg;
		return 0;
	case OPTION_CHECK:
		options->check = true;
		return 0;
	case OPTION_MODULE:
		options->module = arg;
		return 0;
	case OPTION_DEBUG:
		options->debug = true;
		return 0;
	case OPTION_TEST_TRACKER:
		options->test_tracker = arg;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument %s", arg);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	argp_table, parse, NULL,
	"Replicates the disks of this machine: reads what changed and sends it to the process "
	"server.\vSee reprotect-agent(8). Talk to it with reprotect(8).",
	NULL, NULL, NULL
};

static int setup_signals(struct agent *agent)
{
	sigset_t set;
	int rc;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	rc = sd_event_add_signal(agent->event, NULL, SIGTERM, NULL, NULL);
	if (rc >= 0)
		rc = sd_event_add_signal(agent->event, NULL, SIGINT, NULL, NULL);
	return rc < 0 ? rc : 0;
}

static int setup(struct agent *agent)
{
	static const struct io_ops *const engines[] = { NULL, &io_uring_ops, &io_libaio_ops };
	int rc;

	rc = sd_event_default(&agent->event);
	if (rc >= 0)
		rc = setup_signals(agent);
	if (rc < 0) {
		log_error("cannot start the event loop: %s", strerror(-rc));
		return rc;
	}
	sd_event_set_watchdog(agent->event, true);
	rc = state_lock(agent);
	if (rc)
		return rc;
	rc = state_load(agent);
	if (rc)
		return rc;
	early_start(agent);
	disks_setup(agent);
	rc = io_engine_new(&agent->io, agent->event, engines[agent->config.io], IO_DEPTH);
	if (rc) {
		log_error("disk I/O: cannot start %s: %s (set io = auto in the configuration)",
			  engines[agent->config.io] ? engines[agent->config.io]->name : "an engine",
			  strerror(-rc));
		return rc;
	}
	rc = ship_new(&agent->ship, agent->event, agent->io, &epoch_ship_hooks, agent);
	if (!rc)
		rc = link_new(&agent->link, agent);
	if (rc) {
		log_error("cannot start: %s", strerror(-rc));
		return rc;
	}
	rc = control_new(&agent->control, agent->event, agent->config.control, commands_handle, agent);
	if (rc) {
		log_error("control socket %s: %s%s", agent->config.control, strerror(-rc),
			  rc == -EADDRINUSE ? " (another agent runs; stop it first: systemctl stop "
					      "reprotect-agent)" :
					      "");
		return rc;
	}
	return 0;
}

/* A failback that an agent before us began or finished. */
static void check_failback(struct agent *agent)
{
	switch (state_failback_get(agent)) {
	case STATE_FAILBACK_DONE:
		agent->released = true;
		agent_problem_set(&agent->released_problem,
				  "to protect this machine again: reprotect resume",
				  "this machine has been failed back; it is not replicated");
		break;
	case STATE_FAILBACK_BEGUN:
		log_warning("a failback was under way when the agent ended; downstream knows how it "
			    "ended: if the targets are released, replication is refused");
		state_failback_set(agent, STATE_FAILBACK_NONE);
		break;
	case STATE_FAILBACK_NONE:
		break;
	}
}

static void teardown(struct agent *agent)
{
	sd_notify(0, "STOPPING=1");
	failback_stop(agent, "the agent ends");
	if (agent->ship && agent->link)
		epoch_abandon(agent);
	control_free(agent->control);
	link_free(agent->link);
	if (agent->io)
		io_engine_free(agent->io);
	ship_free(agent->ship);
	failback_free(agent); /* the helper thaws when its pipe closes */
	tag_free(agent);
	snapshot_free(agent); /* its epoch is aborted by the next agent */
	points_close(agent);
	slice_free(&agent->before);
	slice_free(&agent->epoch.slice);
	disks_close(agent);
	sd_event_source_disable_unref(agent->tracker_source);
	sd_event_source_disable_unref(agent->tick);
	sd_event_source_disable_unref(agent->cut_timer);
	if (agent->tracker)
		agent->tracker_ops->close(agent->tracker);
	sd_event_unref(agent->event);
	json_decref(agent->early);
	config_free(&agent->config);
	free(agent->disks);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct agent *agent;
	char error[512] = "";
	int rc;

	rc = argp_parse(&argp, argc, argv, 0, NULL, &options);
	if (rc)
		return 2;
	log_init("reprotect-agent", options.debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	agent = calloc(1, sizeof(*agent));
	if (!agent || !(agent->disks = calloc(AGENT_DISKS_MAX, sizeof(*agent->disks)))) {
		log_error("out of memory");
		return 1;
	}
	rc = config_load(&agent->config, options.config, error, sizeof(error));
	if (rc)
		log_error("%s", error);
	else if (options.check)
		printf("%s: good, %zu disks\n", options.config ? options.config : AGENT_CONFIG_PATH,
		       agent->config.disk_count);
	if (rc || options.check) {
		config_free(&agent->config);
		free(agent->disks);
		free(agent);
		return rc ? 2 : 0;
	}
	agent->tracker_ops = &tracker_cbt_ops;
	agent->tracker_argument = options.module ? options.module : agent->config.module;
#ifdef REPROTECT_TESTING
	if (options.test_tracker) {
		agent->tracker_ops = &tracker_file_ops;
		agent->tracker_argument = options.test_tracker;
	}
#endif
	if (agent->config.host)
		snprintf(agent->host, sizeof(agent->host), "%s", agent->config.host);
	else if (gethostname(agent->host, sizeof(agent->host) - 1) < 0)
		snprintf(agent->host, sizeof(agent->host), "?");
	/* Downstream takes plain names only. */
	for (char *c = agent->host; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
			*c = '-';
	agent->slice_bytes = agent->config.slice_bytes;
	rc = setup(agent);
	if (!rc) {
		check_failback(agent);
		rc = agent_run(agent);
		log_info("ends");
	}
	teardown(agent);
	free(agent);
	return rc < 0 ? 1 : 0;
}
