# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_dnslob_global_optspecs
    string join \n C/config= check-config= l/local= a/acl= c/client= e/execute= k/setkey= disable-syslog structured-logging= supervised shards= cpus= steer= busy-poll= batch= drain= stats= metrics-prefix= log-format= log-time= log-level-name= log-clients= v/verbose u/uid= g/gid= backends-max= sockets= udp-timeout= outstanding-max= receive-buffer= send-buffer= policy= tcp-recv-timeout= tcp-send-timeout= tcp-connections= tcp-connections-per-client= strict traffic-ring= h/help V/version
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
complete -c dnslob -n "__fish_dnslob_needs_command" -l check-config -d 'Report every error of the configuration and exit; with =strict, warnings are errors' -r -f -a "lenient\t''
strict\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -s l -l local -d 'Listen here rather than where the file says; can be repeated' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s a -l acl -d 'Allow queries from this network, rather than from the default ACL; can be repeated' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s c -l client -d 'Connect to the console of a running process, here or where the file says' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s e -l execute -d 'Run this command on the console of a running process; the exit code tells whether it worked' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s k -l setkey -d 'The console\'s key, rather than the configuration\'s' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l structured-logging -d 'Write the log as logfmt lines, as setStructuredLogging does' -r -f -a "true\t''
false\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l shards -d 'Threads that serve queries, each with its own sockets for every listener and server' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l cpus -d 'CPUs to pin the shards to, in turn' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l steer -d 'How clients\' packets are distributed to shards [default: flow]' -r -f -a "flow\t''
cpu\t''
client\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l busy-poll -d 'Poll for more packets this long before sleeping [default: 0]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l batch -d 'Most packets received or sent by one system call [default: 64]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l drain -d 'How long outstanding queries may take when the process stops [default: 2s]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l stats -d 'Print a line of statistics at this interval' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l metrics-prefix -d 'Names of the metrics that the web server shows at /metrics [default: dnslob]' -r -f -a "dnslob\t''
dnsdist\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l log-format -d 'Format of log lines [default: text]' -r -f -a "text\t''
logfmt\t''
json\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l log-time -d 'The time of logfmt lines: seconds since 1970, or as in ISO 8601 [default: numeric]' -r -f -a "numeric\t''
iso8601\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l log-level-name -d 'What the level is called in logfmt lines [default: prio]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l log-clients -d 'How query logs and the log show clients: `whole` addresses with ports, their `network` (/24 or /48), or a `pseudonym`, which is the same in all logs until dnslob ends [default: whole]' -r -f -a "whole\t''
network\t''
pseudonym\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -s u -l uid -d 'Run as this user once the sockets are open' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -s g -l gid -d 'Run as this group once the sockets are open' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l backends-max -d 'Most servers at a time, including removed ones that still have outstanding queries [default: 1024]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l sockets -d 'Default number of UDP sockets, and so of source ports, per server and shard [default: 4]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l udp-timeout -d 'Default time-out of queries to a server [default: 2000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l outstanding-max -d 'Default limit of outstanding queries per server and shard: over UDP, and as many over TCP and TLS [default: 65535]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l receive-buffer -d 'Receive buffer of every UDP socket, about 5,000 queries [default: 4194304]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l send-buffer -d 'Send buffer of every UDP socket [default: 1048576]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l policy -d 'Policy of every pool without its own' -r -f -a "leastOutstanding\t''
firstAvailable\t''
roundrobin\t''
wrandom\t''
whashed\t''
chashed\t''
orderedWrandUntag\t''
p2c\t''
concentrate\t''"
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-recv-timeout -d 'Close a client\'s connection that is idle this long, or that does not complete a query or handshake in this time [default: 10000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-send-timeout -d 'Close a client\'s connection that does not read its answers this long [default: 10000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-connections -d 'Most concurrent connections of all clients [default: 100000]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l tcp-connections-per-client -d 'Most concurrent connections of a client [default: 0]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l traffic-ring -d 'Finished queries that are kept for `grepq` and for lists with conditions, in the whole process, 120 bytes each [default: 65536]' -r
complete -c dnslob -n "__fish_dnslob_needs_command" -l disable-syslog -d 'Accepted as in dnsdist: nothing is sent to syslog'
complete -c dnslob -n "__fish_dnslob_needs_command" -l supervised -d 'Accepted as in dnsdist: dnslob always stays in the foreground'
complete -c dnslob -n "__fish_dnslob_needs_command" -s v -l verbose -d 'Log verbosely'
complete -c dnslob -n "__fish_dnslob_needs_command" -l strict -d 'Refuse a configuration with warnings: unknown options, names of older versions of dnsdist, what has no effect'
complete -c dnslob -n "__fish_dnslob_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dnslob -n "__fish_dnslob_needs_command" -s V -l version -d 'Print version'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "bench" -d 'Ask a name server as often as wanted or as it can, check the answers and measure them'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "reflect" -d 'A fast name server for measurements: its answers are a function of the query'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "replay" -d 'Send the queries of a capture to a name server, or to two and compare their answers'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "scope" -d 'Tell what a capture of DNS traffic, or an interface, shows: latency, rates, codes, names, clients'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "demo" -d 'Serve embedded backends on loopback under load, and show statistics'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "console" -d 'Connects to the console of a running process'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "generate" -d 'Print a document generated from the tables of settings, functions and metrics'
complete -c dnslob -n "__fish_dnslob_needs_command" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l transport -d 'How to ask [default: udp]' -r -f -a "udp\t''
tcp\t''
tls\t''"
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l threads -d 'Threads, each on a CPU of its own [default: 1]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l cpus -d 'Pin the threads to these CPUs, as 0,2-5, rather than to the first or last ones' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l rate -d 'Send so many queries per second, whether they are answered or not (open loop)' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l outstanding -d 'Keep so many queries unanswered, and send as fast as answers come (closed loop) [default: 100]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l ramp -d 'Find the highest rate at which none of these holds, as --ramp=\'p99>20ms\' [default: p99>100ms,loss>1%]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l duration -d 'How long; for --ramp, how long at most [default: 10s, or 2m for --ramp]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l names -d 'Ask for the names of this file: \'NAME [TYPE]\' a line' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l zipf -d 'Ask for N names by Zipf\'s law: the k-th 1/k as often as the first [default: 1000]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l hit-rate -d 'Ask for new names in the other part of the queries, to miss caches: 0.8 or 80%' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l zone -d 'The zone of the generated names [default: bench.test]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l type -d 'The type of the queries, unless a file says it [default: A]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l clients -d 'Ask from the addresses of this network, as 127.1.0.0/24' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l connections -d 'Connections over TCP or TLS, of all threads together [default: 16]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l edns -d 'Send an OPT record with this payload size, bytes' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l timeout -d 'How long an answer may take until the query is lost [default: 2s]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l ca -d 'PEM: verify the server\'s certificate by these authorities' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l tls-name -d 'The name to send over TLS, and to verify' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l seed -d 'Begin randomness here: the same names each time' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l report -d 'Write the report as a page with plots, of one file; FILE.svg or FILE.png is the plot of latencies alone' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l hdr -d 'Write a log of HdrHistograms, one a second, in nanoseconds' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l fail-if -d 'Exit with 3 if one of these holds: \'p99>20ms,loss>0.1%,servfail>1%,rate<50000\'' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l random -d 'Ask for each name only once'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l dnssec -d 'Ask for DNSSEC records (DO)'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l cookie -d 'Send a cookie (RFC 7873), and check that it comes back'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l padding -d 'Pad queries to blocks of 128 bytes (RFC 8467)'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l verify -d 'Check that the records are those that dnslob reflect makes of the query'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -l json -d 'Print the report as JSON'
complete -c dnslob -n "__fish_dnslob_using_subcommand bench" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l listen -d 'Where to answer over UDP and TCP; port 0 is any [default: 127.0.0.1:5300]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l threads -d 'Threads, each on a CPU of its own [default: 1]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l cpus -d 'Pin the threads to these CPUs, as 0,2-5, rather than to the first or last ones' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l latency -d 'Delay answers: \'fixed 2ms\', \'uniform 1ms..5ms\' or \'lognormal 2ms 0.5\'' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l loss -d 'Leave this part of the queries over UDP unanswered: 0.01 or 1%' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l truncate -d 'Truncate this part of the answers over UDP' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l rcode -d 'Answer these parts of the queries with response codes: servfail=0.01,nxdomain=5%' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l ttl -d 'TTL of records, seconds [default: 60]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l records -d 'Records of an answer, up to 32 [default: 1]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l tls -d 'Answer over TLS too' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l certificate -d 'PEM: the certificate for TLS, and its chain' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l key -d 'PEM: the key of the certificate' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l seed -d 'Begin randomness here: the same each time' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -l shared -d 'Share the addresses with other processes that do so, which get a part of the queries'
complete -c dnslob -n "__fish_dnslob_using_subcommand reflect" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l speed -d 'Send as recorded, N times as fast: 0.1 to 1000 [default: 1]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l rate -d 'Send so many queries per second, evenly, in the recorded order' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l port -d 'The ports of servers in the capture [default: 53]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l count -d 'Send the first N of the queries only' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l rd -d 'Only queries with RD, or only those without' -r -f -a "yes\t''
no\t''"
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l name -d 'Only queries for these names and those below' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l type -d 'Only queries of these types' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l client -d 'Only queries of clients in these networks' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l transport -d 'How to ask [default: as recorded, UDP or TCP]' -r -f -a "udp\t''
tcp\t''
tls\t''"
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l sockets -d 'A UDP socket for each client, N at most; then clients share them [default: 1024, or 16 for --max]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l connections -d 'Connections at a time at most; a client beyond that takes the one that has been idle for longest [default: 10000, if there may be so many]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l idle -d 'Close a connection after so long without a query, since its end may not be recorded [default: 10s]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l ecs-stamp -d 'Add a client subnet option with so many bits of the client\'s address [default: 32,128]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l timeout -d 'How long an answer may take until the query is lost [default: 2s]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l ca -d 'PEM: verify the server\'s certificate by these authorities' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l tls-name -d 'The name to send over TLS, and to verify' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l threads -d 'Threads, each on a CPU of its own [default: 1]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l cpus -d 'Pin the threads to these CPUs, as 0,2-5, rather than to the first or last ones' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l compare -d 'What of the answers is compared: rcode,flags,answer,authority,additional,ttl,order,edns [default: all but ttl, order and edns]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l report -d 'Write the report as a page with plots, of one file; FILE.svg or FILE.png is the plot of latencies alone' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l hdr -d 'Write a log of HdrHistograms, one a second, in nanoseconds' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l fail-if -d 'Exit with 3 if one of these holds: \'p99>20ms,loss>0.1%,servfail>1%,rate<50000\'' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l max -d 'Send as fast as this machine can'
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l spoof-sources -d 'Send datagrams from the recorded addresses, which needs CAP_NET_ADMIN (IP_TRANSPARENT)'
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l proxy -d 'Send a PROXY header (version 2) with the client\'s address'
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l ignore-recorded -d 'Do not compare with the answers of the capture'
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -l json -d 'Print the report as JSON'
complete -c dnslob -n "__fish_dnslob_using_subcommand replay" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -s i -l interface -d 'Look at this interface, or at any of them (any), until a signal' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l duration -d 'Look at the interface for so long' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l ports -d 'The ports of servers, as 53,5300-5310 [default: 53]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l timeout -d 'How long an answer may take until the query counts as unanswered [default: 2s]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l client -d 'Only messages from or to clients of this network; may be given several times' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l name -d 'Only messages about this name and names below it; may be given several times' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l type -d 'Only messages about this type; may be given several times' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l rd -d 'Only messages with, or without, the bit RD' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l top -d 'Rows of each list, up to 1000 [default: 10]' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l report -d 'Write the report as a page with plots, of one file; FILE.svg or FILE.png is the plot of latencies alone' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l hdr -d 'Write a log of HdrHistograms, one a second, in nanoseconds' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l fail-if -d 'Exit with 3 if one of these holds: \'p99>20ms,loss>0.1%,servfail>1%,rate<50000\'' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -l json -d 'Print the report as JSON'
complete -c dnslob -n "__fish_dnslob_using_subcommand scope" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l seconds -d 'How long to run, 3 or more' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l backends -d 'Embedded backends' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l rate -d 'Offered load, queries per second' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -l cache -d 'Answer from a packet cache before the backends'
complete -c dnslob -n "__fish_dnslob_using_subcommand demo" -s h -l help -d 'Print help'
complete -c dnslob -n "__fish_dnslob_using_subcommand console" -s C -l config -d 'The configuration of the running process [default: /etc/dnslob/dnslob.lua]' -r -F
complete -c dnslob -n "__fish_dnslob_using_subcommand console" -s e -l execute -d 'Run this command on the console of a running process; the exit code tells whether it worked' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand console" -s k -l setkey -d 'The console\'s key, rather than the configuration\'s' -r
complete -c dnslob -n "__fish_dnslob_using_subcommand console" -s h -l help -d 'Print help'
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
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "bench" -d 'Ask a name server as often as wanted or as it can, check the answers and measure them'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "reflect" -d 'A fast name server for measurements: its answers are a function of the query'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "replay" -d 'Send the queries of a capture to a name server, or to two and compare their answers'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "scope" -d 'Tell what a capture of DNS traffic, or an interface, shows: latency, rates, codes, names, clients'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "demo" -d 'Serve embedded backends on loopback under load, and show statistics'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "console" -d 'Connects to the console of a running process'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "generate" -d 'Print a document generated from the tables of settings, functions and metrics'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and not __fish_seen_subcommand_from bench reflect replay scope demo console generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "man" -d 'The manual page'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "completions" -d 'Completions for a shell'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "reference" -d 'The reference of the configuration, Markdown'
complete -c dnslob -n "__fish_dnslob_using_subcommand help; and __fish_seen_subcommand_from generate" -f -a "metrics" -d 'The statistics, Markdown'
