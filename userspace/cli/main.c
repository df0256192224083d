// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main: the words of the command line. Finds the command, reads its options with a parser
 * of its own (so that --help and errors are about that command), calls it.
 */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "conf.h"
#include "log.h"
#include "util.h"

const char *argp_program_version = "reprotect " REPROTECT_VERSION;
const char *argp_program_bug_address;

enum { TAKES_JSON = 1, TAKES_NAME = 2, TAKES_FORCE = 4, TAKES_WATCH = 8, TAKES_FAILBACK = 16, TAKES_YES = 32,
       TAKES_TAG = 64, TAKES_SNAPSHOT = 128, TAKES_DISCARD = 256, TAKES_ROLLBACK = 512 };
/* Those of the commands that export. */
enum { TAKES_EXPORT = 1 << 20, TAKES_EXPORTS = 1 << 21, TAKES_NBDKIT = 1 << 22, TAKES_ALL = 1 << 23, TAKES_MOUNT = 1 << 24,
       TAKES_VERIFY = 1 << 25 };

struct command {
	const char *group, *word; /* group NULL: a single word */
	enum cli_exit (*run)(const struct cli_options *options);
	unsigned takes;
	const char *arguments, *help;
};

static const struct command commands[] = {
	{ NULL, "status", command_status, TAKES_JSON | TAKES_WATCH, "",
	  "Show what the daemons on this machine do, and what to do about it." },
	{ "disk", "attach", command_disk_attach, TAKES_JSON | TAKES_NAME, "DEVICE",
	  "Replicate a whole disk from now on, mounted or not." },
	{ "disk", "detach", command_disk_detach, TAKES_JSON | TAKES_FORCE, "DEVICE|NAME",
	  "Stop replicating a disk; attaching it again needs a new initial sync." },
	{ "disk", "list", command_disk_list, TAKES_JSON, "", "List the disks." },
	{ "disk", "snapshot", command_disk_snapshot, TAKES_JSON | TAKES_SNAPSHOT, "DEVICE|NAME",
	  "Show a disk as it is now, read-only; replication waits until it is released." },
	{ "tag", "app", command_tag_app, TAKES_JSON | TAKES_TAG, "",
	  "Make an application-consistent recovery point: scripts, freeze, cut, thaw." },
	{ "tag", "crash", command_tag_crash, TAKES_JSON | TAKES_TAG, "",
	  "Give the next crash-consistent recovery point a name." },
	{ NULL, "failback", command_failback, TAKES_JSON | TAKES_FAILBACK | TAKES_YES, "",
	  "Freeze the filesystems, send the last changes, compare and release the targets." },
	{ NULL, "resume", command_resume, TAKES_JSON, "",
	  "After a failback: thaw the filesystems and protect this machine again." },
	{ "points", "list", command_points_list, TAKES_JSON, "[MACHINE]",
	  "List the recovery points that the master target keeps." },
	{ "points", "pin", command_points_pin, TAKES_JSON, "MACHINE POINT", "Keep a recovery point until it is unpinned." },
	{ "points", "unpin", command_points_unpin, TAKES_JSON, "MACHINE POINT",
	  "Let a recovery point go when the policy says so." },
	{ "points", "discard", command_points_discard, TAKES_JSON | TAKES_YES | TAKES_DISCARD, "MACHINE [POINT]",
	  "Give up recovery points: one, those newer than one, or all." },
	{ "points", "rollback", command_points_rollback, TAKES_JSON | TAKES_YES | TAKES_ROLLBACK, "MACHINE [POINT]",
	  "Set the target disks back to a recovery point." },
	{ "points", "export", command_points_export, TAKES_JSON | TAKES_EXPORT | TAKES_NBDKIT, "MACHINE POINT [DISK]",
	  "Serve the disks of a recovery point over NBD." },
	{ "points", "exports", command_points_exports, TAKES_JSON | TAKES_EXPORTS, "", "List what is exported." },
	{ "points", "unexport", command_points_unexport, TAKES_EXPORTS | TAKES_ALL, "NAME|--all", "End an export." },
	{ "points", "mount", command_points_mount, TAKES_JSON | TAKES_MOUNT | TAKES_NBDKIT, "MACHINE POINT DISK [DIR]",
	  "Mount a file system of a recovery point; what is written is thrown away." },
	{ "points", "unmount", command_points_unmount, TAKES_EXPORTS, "DIR|NAME", "Unmount it, and end its export." },
	{ "points", "verify", command_points_verify, TAKES_JSON | TAKES_VERIFY | TAKES_NBDKIT, "MACHINE POINT",
	  "Check a recovery point: undo log, partition tables, file systems." },
	{ "target", "list", command_target_list, TAKES_JSON, "",
	  "List the machines that the master target keeps." },
	{ "target", "forget", command_target_forget, TAKES_YES, "MACHINE",
	  "Let the master target forget a machine; its disks stay as they are." },
	{ "preflight", "retention", command_preflight_retention, TAKES_JSON, "[PATH]",
	  "Say whether a volume is fit for undo logs, and what to do about it." },
};

enum {
	OPTION_NAME = 256,
	OPTION_GRANULE,
	OPTION_FORCE,
	OPTION_THAW,
	OPTION_STOP,
	OPTION_SOCKET,
	OPTION_TIMEOUT,
	OPTION_MOUNT,
	OPTION_STORE,
	OPTION_RELEASE,
	OPTION_NEWER_THAN,
	OPTION_DISCARD_ALL,
	OPTION_NO_WAIT,
	OPTION_STATUS
};

enum {
	OPTION_WRITABLE = 512,
	OPTION_LISTEN,
	OPTION_ALL,
	OPTION_PARTITION,
	OPTION_READ_ONLY,
	OPTION_PLUGIN,
	OPTION_EXPORTS
};

static const struct {
	unsigned takes; /* 0: every command */
	struct argp_option option;
} options_all[] = {
	{ 0, { "socket", OPTION_SOCKET, "PATH", 0, "Control socket of the daemon", 0 } },
	{ TAKES_JSON, { "json", 'j', NULL, 0, "Print JSON", 0 } },
	{ TAKES_NAME, { "name", OPTION_NAME, "NAME", 0, "Stable name of the disk (default: its kernel name)", 0 } },
	{ TAKES_NAME, { "granule", OPTION_GRANULE, "BYTES", 0, "Unit of tracking, 4K to 1M (default 4K)", 0 } },
	{ TAKES_NAME,
	  { "store", OPTION_STORE, "WHERE", 0, "Crash-safe store: none, auto, or a device or file (default: agent.conf)", 0 } },
	{ TAKES_FORCE, { "force", OPTION_FORCE, NULL, 0, "Even while an epoch is open", 0 } },
	{ TAKES_WATCH,
	  { "watch", 'w', "SECONDS", OPTION_ARG_OPTIONAL, "Again and again (default: every 2 s)", 0 } },
	{ TAKES_FAILBACK,
	  { "timeout", OPTION_TIMEOUT, "TIME", 0, "Give up after TIME, e.g. 30min (default 2h)", 0 } },
	{ TAKES_FAILBACK, { "thaw", OPTION_THAW, NULL, 0, "Thaw the filesystems at the end", 0 } },
	{ TAKES_ROLLBACK, { "stop", OPTION_STOP, NULL, 0, "Stop the one that is under way, and undo what it did", 0 } },
	{ TAKES_FAILBACK, { "stop", OPTION_STOP, NULL, 0, "Stop the failback that is under way", 0 } },
	{ TAKES_TAG, { "name", OPTION_NAME, "NAME", 0, "Name of the recovery point (default: kind and time)", 0 } },
	{ TAKES_TAG | TAKES_SNAPSHOT,
	  { "timeout", OPTION_TIMEOUT, "TIME", 0, "How long to wait (default 5min; snapshot: 1min)", 0 } },
	{ TAKES_SNAPSHOT, { "mount", OPTION_MOUNT, "DIR", 0, "Mount it there, read-only", 0 } },
	{ TAKES_SNAPSHOT, { "release", OPTION_RELEASE, NULL, 0, "End it: replication goes on", 0 } },
	{ TAKES_DISCARD, { "newer-than", OPTION_NEWER_THAN, "POINT", 0, "All that are newer, but pinned ones and those in use", 0 } },
	{ TAKES_DISCARD, { "all", OPTION_DISCARD_ALL, NULL, 0, "All, pinned ones, too, also when the retention volume is lost", 0 } },
	{ TAKES_ROLLBACK, { "no-wait", OPTION_NO_WAIT, NULL, 0, "Begin it, and do not wait for its end", 0 } },
	{ TAKES_ROLLBACK, { "status", OPTION_STATUS, NULL, 0, "Say how far it is, or how the last one ended", 0 } },
	{ TAKES_YES, { "yes", 'y', NULL, 0, "Do not ask", 0 } },
	{ TAKES_EXPORT, { "writable", OPTION_WRITABLE, NULL, 0, "Take writes, and throw them away at the end", 0 } },
	{ TAKES_EXPORT, { "listen", OPTION_LISTEN, "SOCKET", 0, "Path of the socket; with one disk", 0 } },
	{ TAKES_ALL, { "all", OPTION_ALL, NULL, 0, "All that are not mounted", 0 } },
	{ TAKES_MOUNT, { "partition", OPTION_PARTITION, "NUMBER", 0, "Which, where there are several", 0 } },
	{ TAKES_MOUNT, { "read-only", OPTION_READ_ONLY, NULL, 0, "Replay no journal, take no writes", 0 } },
	{ TAKES_VERIFY, { "timeout", OPTION_TIMEOUT, "TIME", 0, "For each file system (default 6h)", 0 } },
	{ TAKES_NBDKIT, { "plugin", OPTION_PLUGIN, "PATH", OPTION_HIDDEN, "nbdkit's plugin, where it is not installed", 0 } },
	{ TAKES_NBDKIT | TAKES_EXPORTS,
	  { "exports", OPTION_EXPORTS, "DIR", OPTION_HIDDEN, "Where exports are kept (default /run/reprotect/exports)", 0 } },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	char end;

	switch (key) {
	case OPTION_SOCKET:
		options->socket = arg;
		return 0;
	case 'j':
		options->json = true;
		return 0;
	case OPTION_NAME:
		options->name = arg;
		return 0;
	case OPTION_GRANULE:
		if (conf_parse_bytes(arg, &options->granule_bytes))
			argp_error(state, "--granule %s: not a size (4K, 64K, 1M)", arg);
		return 0;
	case OPTION_FORCE:
		options->force = true;
		return 0;
	case 'w':
		options->watch = true;
		options->watch_ms = 2000;
		if (arg && (conf_parse_ms(arg, &options->watch_ms) || options->watch_ms < 100))
			argp_error(state, "--watch %s: not a time of 100ms or more", arg);
		return 0;
	case OPTION_TIMEOUT:
		if (conf_parse_ms(arg, &options->timeout_ms) || !options->timeout_ms)
			argp_error(state, "--timeout %s: not a time (90s, 30min, 2h)", arg);
		return 0;
	case OPTION_MOUNT:
		options->mount = arg;
		return 0;
	case OPTION_STORE:
		if (strcmp(arg, "none") != 0 && strcmp(arg, "auto") != 0 && arg[0] != '/')
			argp_error(state, "--store %s: none, auto, or an absolute path", arg);
		options->store = arg;
		return 0;
	case OPTION_RELEASE:
		options->release = true;
		return 0;
	case OPTION_NEWER_THAN:
		options->newer_than = arg;
		return 0;
	case OPTION_DISCARD_ALL:
		options->discard_all = true;
		return 0;
	case OPTION_NO_WAIT:
		options->no_wait = true;
		return 0;
	case OPTION_STATUS:
		options->status = true;
		return 0;
	case OPTION_THAW:
		options->thaw = true;
		return 0;
	case OPTION_STOP:
		options->stop = true;
		return 0;
	case 'y':
		options->yes = true;
		return 0;
	case OPTION_WRITABLE:
		options->writable = true;
		return 0;
	case OPTION_LISTEN:
		options->listen = arg;
		return 0;
	case OPTION_ALL:
		options->all = true;
		return 0;
	case OPTION_PARTITION:
		if (sscanf(arg, "%u%c", &options->partition, &end) != 1 || !options->partition)
			argp_error(state, "--partition %s: not the number of a partition", arg);
		return 0;
	case OPTION_READ_ONLY:
		options->read_only = true;
		return 0;
	case OPTION_PLUGIN:
		options->plugin = arg;
		return 0;
	case OPTION_EXPORTS:
		options->exports_dir = arg;
		return 0;
	case ARGP_KEY_ARGS:
		options->argv = state->argv + state->next;
		options->argc = state->argc - state->next;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void usage(FILE *out)
{
	fprintf(out, "Usage: reprotect COMMAND [OPTION...]\n"
		     "Talks to the reprotect daemons on this machine.\n\n");
	for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
		const struct command *command = &commands[i];
		char words[64];

		snprintf(words, sizeof(words), "%s%s%s %s", command->group ? command->group : "",
			 command->group ? " " : "", command->word, command->arguments);
		fprintf(out, "  %-38s %s\n", words, command->help);
	}
	fprintf(out, "\n  reprotect COMMAND --help shows the options of a command; --version, --help.\n"
		     "Exit status: 0 done, 1 failed, 2 wrong usage, 3 the daemon does not run.\n");
}

static const struct command *find(int argc, char **argv, int *words)
{
	for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
		const struct command *command = &commands[i];

		*words = command->group ? 2 : 1;
		if (argc <= *words)
			continue;
		if (command->group && strcmp(argv[1], command->group) != 0)
			continue;
		if (!strcmp(argv[*words], command->word))
			return command;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct argp_option table[ARRAY_LENGTH(options_all) + 1] = { 0 };
	struct argp argp = { .options = table, .parser = parse };
	struct cli_options options = { 0 };
	const struct command *command;
	char name[64], doc[160];
	size_t used = 0;
	int words = 0;

	log_init("reprotect", LOG_LEVEL_WARNING);
	command = find(argc, argv, &words);
	if (!command) {
		const char *word = argc > 1 ? argv[1] : "";

		if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
			printf("%s\n", argp_program_version);
			return CLI_OK;
		}
		if (!strcmp(word, "--help") || !strcmp(word, "-?") || !strcmp(word, "help")) {
			usage(stdout);
			return CLI_OK;
		}
		if (argc > 1)
			cli_error("see: reprotect --help", "no such command: %s%s%s", word,
				  argc > 2 ? " " : "", argc > 2 ? argv[2] : "");
		else
			usage(stderr);
		return CLI_USAGE;
	}
	for (size_t i = 0; i < ARRAY_LENGTH(options_all); i++)
		if (!options_all[i].takes || (options_all[i].takes & command->takes))
			table[used++] = options_all[i].option;
	snprintf(name, sizeof(name), "reprotect %s%s%s", command->group ? command->group : "",
		 command->group ? " " : "", command->word);
	snprintf(doc, sizeof(doc), "%s\vSee reprotect(8).", command->help);
	argp.args_doc = command->arguments;
	argp.doc = doc;
	argp_err_exit_status = CLI_USAGE;
	argv[words] = name; /* what messages call the program */
	if (argp_parse(&argp, argc - words, argv + words, 0, NULL, &options))
		return CLI_USAGE;
	return command->run(&options);
}
