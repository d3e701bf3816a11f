# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_dnslob_global_optspecs
    string join \n C/config= check-config l/local= a/acl= supervised shards= cpus= steer= busy-poll= batch= drain= stats= log-format= v/verbose u/uid= g/gid= backends-max= sockets= udp-timeout= outstanding-max= receive-buffer= send-buffer= policy= tcp-recv-timeout= tcp-send-timeout= tcp-connections= tcp-connections-per-client= h/help V/version
end

function __fish_dnslob_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_dnslob_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_dnslob_using_subcommand
    set -l cmd (__fish_dnslob_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c dnslob -n "__fish_dnslob_needs_command" -s C -l config -d 'The configuration file, in Lua' -r -F
complete -c dnslob -n "__fish_dnslob_needs_command" -s l -l local -d 'Listen here, instead of where the file says; can be repeated' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s a -l acl -d 'Let this network ask, too; can be repeated' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l shards -d 'Threads that serve queries' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l cpus -d 'CPUs that the shards are pinned to, in turn' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l steer -d 'How packets of clients are spread over the shards [default: flow]' -r -f -a "flow\t''
cpu\t''
client\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l busy-poll -d 'Spin so long for more packets before sleeping [default: 0]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l batch -d 'Packets read or sent by one system call, at most [default: 64]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l drain -d 'At the end of the process, how long outstanding queries may take to finish [default: 2s]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l stats -d 'Print a line of figures so often' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l log-format -d 'How log lines are written [default: text]' -r -f -a "text\t''
json\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -s u -l uid -d 'Run as this user once the sockets are open' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s g -l gid -d 'Run as this group once the sockets are open' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l backends-max -d 'Servers there can be at a time, those counted that a reload removed and that still finish their queries [default: 1024]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l sockets -d 'UDP sockets, so source ports, per server and shard, where the server does not say [default: 4]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l udp-timeout -d 'How long a server\'s answer is waited for, where the server does not say [default: 2000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l outstanding-max -d 'Queries outstanding at a server, per shard, where the server does not say: so many over UDP, and as many by connections [default: 65535]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l receive-buffer -d 'Receive buffer of every UDP socket: what a shard may fall behind by, about 5,000 queries [default: 4194304]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l send-buffer -d 'Send buffer of every UDP socket [default: 1048576]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l policy -d 'How a server is chosen, in every pool without a policy of its own' -r -f -a "leastOutstanding\t''
firstAvailable\t''
roundrobin\t''
wrandom\t''
whashed\t''
chashed\t''
orderedWrandUntag\t''
p2c\t''
concentrate\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-recv-timeout -d 'A client\'s connection is closed that stands idle for so long, or that begins a query or a handshake and does not finish it in this time [default: 10000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-send-timeout -d 'A client\'s connection is closed that does not take its answers for so long [default: 10000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-connections -d 'Connections of all clients together at a time: those beyond are closed at once [default: 100000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-connections-per-client -d 'Connections of a client at a time [default: 0]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l check-config -d 'Report every error of the configuration and end'
complete -c dnslob -n "__fish_dnslob_needs_command" -l supervised -d 'Accepted for dnsdist\'s sake: dnslob always stays in the foreground'
complete -c dnslob -n "__fish_dnslob_needs_command" -s v -l verbose -d 'Log more'
complete -c dnslob -n "__fish_dnslob_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dnslob -n "__fish_dnslob_needs_command" -s V -l version -d 'Print version'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "demo" -d 'Serve embedded backends on loopback under load, and show it'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "generate" -d 'Print a document made from the tables of settings, functions and metrics'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l seconds -d 'How long to run, 3 or more' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l backends -d 'Embedded backends' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l rate -d 'Offered load, queries per second' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and not __fish_seen_subcommand_from man completions reference metrics help" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and not __fish_seen_subcommand_from man completions reference metrics help" -f -a "man" -d 'The manual page'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and not __fish_seen_subcommand_from man completions reference metrics help" -f -a "completions" -d 'Completions for a shell'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and not __fish_seen_subcommand_from man completions reference metrics help" -f -a "reference" -d 'The reference of the configuration, Markdown'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and not __fish_seen_subcommand_from man completions reference metrics help" -f -a "metrics" -d 'The statistics, Markdown'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and not __fish_seen_subcommand_from man completions reference metrics help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from man" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from completions" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from reference" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from metrics" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from help" -f -a "man" -d 'The manual page'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from help" -f -a "completions" -d 'Completions for a shell'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from help" -f -a "reference" -d 'The reference of the configuration, Markdown'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from help" -f -a "metrics" -d 'The statistics, Markdown'
complete -c dnslob -n "__fish_dnslob_using_subcommand generate; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from demo generate help" -f -a "demo" -d 'Serve embedded backends on loopback under load, and show it'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from demo generate help" -f -a "generate" -d 'Print a document made from the tables of settings, functions and metrics'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from demo generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "man" -d 'The manual page'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "completions" -d 'Completions for a shell'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "reference" -d 'The reference of the configuration, Markdown'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "metrics" -d 'The statistics, Markdown'
